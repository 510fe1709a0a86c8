//! Writes safetensors: into a temporary file in the same folder, renamed only after all of it is on the disk.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleVisitor, Param};
use burn::prelude::*;
use burn::tensor::DType;
use serde_json::{Value, json};

use super::load::is_choice;
use super::values;
use crate::{Error, Result};

/// A tensor to write, with its name.
#[derive(Debug, Clone)]
pub struct Stored {
    name: String,
    shape: Vec<usize>,
    values: Tensor<1>,
    dtype: DType,
}

impl Stored {
    /// Only F32, F16 and BF16 are supported.
    pub fn new<const D: usize>(name: impl Into<String>, tensor: Tensor<D>, dtype: DType) -> Result<Self> {
        kind(dtype)?;
        let shape = tensor.dims().to_vec();
        let values = tensor.inner().reshape([shape.iter().product::<usize>()]);
        Ok(Self { name: name.into(), shape, values, dtype })
    }

    /// A scalar (no dimensions) in f32.
    pub fn scalar(name: impl Into<String>, number: Tensor<1>) -> Result<Self> {
        Ok(Self { shape: Vec::new(), ..Self::new(name, number, DType::F32)? })
    }
}

/// Writes a network in `dtype`, each parameter under its path.
pub fn save<M: Module>(network: &M, path: &Path, dtype: DType, metadata: &BTreeMap<String, String>) -> Result<()> {
    let mut collector = Collector { dtype, path: Vec::new(), tensors: Vec::new() };
    network.visit(&mut collector);
    write(path, collector.tensors.into_iter().collect::<Result<_>>()?, metadata)
}

/// Writes tensors in the given order. Errors: `Invalid` for values that the dtype of the file cannot hold: any that is
/// not finite in it, or all of a tensor that are 0 only in it.
pub fn write(path: &Path, tensors: Vec<Stored>, metadata: &BTreeMap<String, String>) -> Result<()> {
    let scratch = Scratch::beside(path);
    scratch.fill(tensors, metadata).map_err(|error| match error {
        Failure::Io(source) => Error::file(path)(source),
        Failure::Other(error) => error,
    })?;
    std::fs::rename(&scratch.0, path).map_err(Error::file(path))
}

struct Collector {
    dtype: DType,
    path: Vec<String>,
    tensors: Vec<Result<Stored>>,
}

impl ModuleVisitor for Collector {
    fn enter_module(&mut self, name: &str, container: &str) {
        if !is_choice(container) {
            self.path.push(name.to_owned());
        }
    }

    fn exit_module(&mut self, _name: &str, container: &str) {
        if !is_choice(container) {
            self.path.pop();
        }
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.tensors.push(Stored::new(self.path.join("."), param.val(), self.dtype));
    }
}

/// The unfinished file. Deleted on drop unless it was renamed.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // Fails after the rename, as intended.
        let _ = std::fs::remove_file(&self.0);
    }
}

enum Failure {
    Io(std::io::Error),
    Other(Error),
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl Scratch {
    fn beside(path: &Path) -> Self {
        let name = path.file_name().map_or_else(Default::default, |name| name.to_string_lossy());
        Self(path.with_file_name(format!(".{name}.{}.unfinished", std::process::id())))
    }

    fn fill(&self, tensors: Vec<Stored>, metadata: &BTreeMap<String, String>) -> Result<(), Failure> {
        let mut file = BufWriter::with_capacity(1 << 20, File::create(&self.0)?);
        let header = header(&tensors, metadata)?;
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(header.as_bytes())?;
        for Stored { name, values, dtype, .. } in tensors {
            let data = values.clone().cast(dtype).into_data();
            let refused = |why| Err(Error::Invalid(format!("{name}: {why} in {dtype:?}")).into());
            if !values::are_finite(&data) {
                return refused("it holds values that are not finite");
            }
            if values::are_zero(&data) && !values::are_zero(&values.into_data()) {
                return refused("its values are so small that all of them are 0");
            }
            file.write_all(data.as_bytes())?;
        }
        file.into_inner().map_err(|error| error.into_error())?.sync_all()?;
        Ok(())
    }
}

fn header(tensors: &[Stored], metadata: &BTreeMap<String, String>) -> Result<String> {
    let mut entries = serde_json::Map::new();
    if !metadata.is_empty() {
        entries.insert("__metadata__".into(), json!(metadata));
    }
    let mut at = 0;
    for Stored { name, shape, dtype, .. } in tensors {
        let length = shape.iter().product::<usize>() * dtype.size();
        let entry = json!({ "dtype": kind(*dtype)?, "shape": shape, "data_offsets": [at, at + length] });
        if entries.insert(name.clone(), entry).is_some() {
            return Err(Error::Invalid(format!("two tensors are called {name}")));
        }
        at += length;
    }
    let mut text = Value::Object(entries).to_string();
    // Tensors are aligned to eight bytes.
    text.extend(std::iter::repeat_n(' ', text.len().next_multiple_of(8) - text.len()));
    Ok(text)
}

fn kind(dtype: DType) -> Result<&'static str> {
    match dtype {
        DType::F32 => Ok("F32"),
        DType::F16 => Ok("F16"),
        DType::BF16 => Ok("BF16"),
        other => Err(Error::Invalid(format!("{other:?} is not written to safetensors files"))),
    }
}
