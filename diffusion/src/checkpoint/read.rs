//! Open checkpoints: one file, or the shards that an index names. Tensors are read one by one where they lie, so that a
//! checkpoint never is in memory twice.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, TensorData};
use serde::Deserialize;

use super::header::{Entry, Header, Kind};
use crate::{Error, Result};

/// The names that diffusers and transformers give to a network's weights.
const FILES: [&str; 2] = ["diffusion_pytorch_model.safetensors", "model.safetensors"];
/// The longest index of shards, in bytes.
const INDEX_LIMIT: u64 = 8 << 20;
/// The most shards.
const SHARD_LIMIT: usize = 1024;
/// Values that are widened are read in pieces of this many bytes.
const PIECE: usize = 1 << 20;

/// Named tensors on disk, open and checked.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    files: Vec<(PathBuf, File)>,
    tensors: BTreeMap<String, (usize, Entry)>,
    metadata: BTreeMap<String, String>,
}

/// `model.safetensors.index.json`
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Opens a safetensors file, or a network's folder with one such file or with shards and their index.
    pub fn open(path: &Path) -> Result<Self> {
        let mut checkpoint =
            Self { path: path.to_owned(), files: Vec::new(), tensors: BTreeMap::new(), metadata: BTreeMap::new() };
        if !path.is_dir() {
            checkpoint.add(path.to_owned())?;
            return Ok(checkpoint);
        }
        for name in FILES {
            let (file, index) = (path.join(name), path.join(format!("{name}.index.json")));
            if file.is_file() {
                checkpoint.add(file)?;
                return Ok(checkpoint);
            }
            if index.is_file() {
                checkpoint.add_shards(&index)?;
                return Ok(checkpoint);
            }
        }
        Err(Error::malformed(path, format!("there are no weights: neither {} nor {}", FILES[0], FILES[1])))
    }

    fn add(&mut self, path: PathBuf) -> Result<()> {
        let file = File::open(&path).map_err(Error::file(&path))?;
        let about = file.metadata().map_err(Error::file(&path))?;
        if !about.is_file() {
            return Err(Error::malformed(path, "this is no file"));
        }
        let header = Header::read(&path, &file, about.len())?;
        let number = self.files.len();
        for (name, entry) in header.tensors {
            if self.tensors.insert(name.clone(), (number, entry)).is_some() {
                return Err(Error::malformed(path, format!("{name} is in another shard too")));
            }
        }
        self.metadata.extend(header.metadata);
        self.files.push((path, file));
        Ok(())
    }

    fn add_shards(&mut self, path: &Path) -> Result<()> {
        let size = std::fs::metadata(path).map_err(Error::file(path))?.len();
        if size > INDEX_LIMIT {
            return Err(Error::malformed(path, format!("{size} bytes are too many for an index")));
        }
        let text = std::fs::read(path).map_err(Error::file(path))?;
        let index: Index = serde_json::from_slice(&text).map_err(|error| Error::malformed(path, error.to_string()))?;
        let shards: BTreeSet<&String> = index.weight_map.values().collect();
        if shards.len() > SHARD_LIMIT {
            return Err(Error::malformed(path, format!("{} shards are more than {SHARD_LIMIT}", shards.len())));
        }
        for shard in shards {
            // A shard lies beside its index; anything else would let a file name reach out of the folder.
            if Path::new(shard).file_name().is_none_or(|name| name != shard.as_str()) {
                return Err(Error::malformed(path, format!("{shard:?} is no name of a file beside it")));
            }
            self.add(path.with_file_name(shard))?;
        }
        for (name, shard) in &index.weight_map {
            let found = self.tensors.get(name).is_some_and(|(file, _)| self.files[*file].0.ends_with(shard));
            if !found {
                return Err(Error::malformed(path, format!("{name} is not in {shard}")));
            }
        }
        Ok(())
    }

    /// The file or folder that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The strings in the header.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The sizes of a tensor.
    pub fn shape(&self, name: &str) -> Result<Vec<usize>> {
        Ok(self.entry(name)?.1.shape.clone())
    }

    /// Makes a key that other programs also call `copy` known by the name `original` alone.
    pub fn alias(mut self, copy: &str, original: &str) -> Self {
        if let Some(entry) = self.tensors.remove(copy) {
            self.tensors.entry(original.to_owned()).or_insert(entry);
        }
        self
    }

    /// Forgets a tensor that carries nothing, if it is there.
    pub fn without(mut self, name: &str) -> Self {
        self.tensors.remove(name);
        self
    }

    /// All values of a tensor in row-major order.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        let (number, entry) = self.entry(name)?;
        let (path, file) = &self.files[*number];
        let read = |bytes: &mut [u8], at: u64| file.read_exact_at(bytes, at).map_err(Error::file(path));
        let mut values = Vec::with_capacity(entry.length / 2);
        let mut piece = vec![0; PIECE.min(entry.length)];
        for at in (0..entry.length).step_by(PIECE) {
            let piece = &mut piece[..PIECE.min(entry.length - at)];
            read(piece, entry.start + at as u64)?;
            match entry.kind {
                Kind::F32 => values.extend(piece.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))),
                Kind::BF16 => values.extend(
                    piece.as_chunks().0.iter().map(|b| f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16)),
                ),
                Kind::F16 => {
                    values.extend(piece.as_chunks().0.iter().map(|b| burn::tensor::f16::from_le_bytes(*b).to_f32()))
                }
                kind => return Err(self.unreadable(name, kind)),
            }
        }
        Ok(values)
    }

    /// A tensor in the dtype that is wanted.
    pub(super) fn read(&self, name: &str, dtype: DType) -> Result<TensorData> {
        let (number, entry) = self.entry(name)?;
        if dtype != DType::F32 && entry.kind.dtype() == Some(dtype) {
            let (path, file) = &self.files[*number];
            let mut bytes = vec![0; entry.length];
            file.read_exact_at(&mut bytes, entry.start).map_err(Error::file(path))?;
            return Ok(TensorData::from_bytes_vec(bytes, entry.shape.clone(), dtype));
        }
        let data = TensorData::new(self.read_f32(name)?, entry.shape.clone());
        Ok(if dtype == DType::F32 { data } else { data.convert_dtype(dtype) })
    }

    fn entry(&self, name: &str) -> Result<&(usize, Entry)> {
        self.tensors.get(name).ok_or_else(|| Error::malformed(&self.path, format!("there is no tensor {name}")))
    }

    fn unreadable(&self, name: &str, kind: Kind) -> Error {
        Error::malformed(&self.path, format!("{name} is {kind:?}; F32, F16 and BF16 can be read"))
    }
}
