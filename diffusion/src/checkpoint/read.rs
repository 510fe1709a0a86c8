//! Open checkpoints: one file, or the shards that an index lists. Tensors are read individually, so that a checkpoint
//! is never in memory twice.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{DType, TensorData};
use formats::{Header, Sniffer, Tensor, TensorType, scaling, weights};

use super::values;
use crate::{Error, Result};

/// File names that diffusers and transformers used before safetensors.
const PICKLES: [&str; 4] =
    ["diffusion_pytorch_model.bin", "pytorch_model.bin", "diffusion_pytorch_model.fp16.bin", "pytorch_model.fp16.bin"];
/// Size limit of a shard index, in bytes.
const INDEX_LIMIT: u64 = 8 << 20;
/// Values that are widened are read in chunks of this many bytes.
const PIECE: usize = 1 << 20;

/// Named tensors on disk, opened and checked.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    pub(super) path: PathBuf,
    pub(super) files: Vec<Arc<(PathBuf, File)>>,
    pub(super) tensors: BTreeMap<String, Located>,
    pub(super) metadata: BTreeMap<String, String>,
    /// The file's names for expected keys that it lacks.
    pub(super) absent: BTreeMap<String, String>,
    /// The file's prefix for keys that are in neither map.
    pub(super) prefix: String,
    /// The detected family, if it had to be detected.
    pub(super) taken_for: Option<String>,
}

/// Where a tensor is stored, its name there, and how its values are rearranged.
#[derive(Debug, Clone)]
pub(super) struct Located {
    file: usize,
    pub name: String,
    pub entry: Tensor,
    pub order: Order,
    /// A factor for all values.
    pub scale: Option<f32>,
}

/// How the values of a tensor are arranged after reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    AsStored,
    /// The second half of the rows comes first.
    HalvesSwapped,
    /// Rows and columns are exchanged. The entry has the shape after transposing.
    Transposed,
}

impl Checkpoint {
    /// Opens a safetensors or GGUF file, or a network's folder with one such file or with shards, of which
    /// [`weights::choose`] chooses one variant. The names of attention layers from before diffusers 0.18 are converted
    /// to today's, and scales of fp8 are applied.
    pub fn open(path: &Path) -> Result<Self> {
        let mut checkpoint = Self {
            path: path.to_owned(),
            files: Vec::new(),
            tensors: BTreeMap::new(),
            metadata: BTreeMap::new(),
            absent: BTreeMap::new(),
            prefix: String::new(),
            taken_for: None,
        };
        if !path.is_dir() {
            checkpoint.add(path.to_owned())?;
            return Ok(checkpoint);
        }
        let entries = std::fs::read_dir(path).map_err(Error::file(path))?;
        let names: Vec<String> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let chosen = weights::choose(&names, None).map_err(|reason| Error::malformed(path, reason))?;
        if let Some(chosen) = chosen {
            if let Some(missing) = chosen.missing.first() {
                return Err(Error::malformed(path, format!("{missing} is missing")));
            }
            match chosen.index {
                Some(index) => checkpoint.add_shards(&path.join(index))?,
                None => chosen.files.iter().try_for_each(|file| checkpoint.add(path.join(file)))?,
            }
            return checkpoint.with_scales().map(Self::with_current_attention_names);
        }
        let pickle = PICKLES.iter().find(|name| path.join(name).is_file());
        Err(Error::malformed(
            path,
            match pickle {
                Some(name) => {
                    format!("the only weights are a pickle, {name}; only safetensors and GGUF files are read")
                }
                None => "there are no weights, such as model.safetensors".to_owned(),
            },
        ))
    }

    fn add(&mut self, path: PathBuf) -> Result<()> {
        let file = File::open(&path).map_err(Error::file(&path))?;
        let about = file.metadata().map_err(Error::file(&path))?;
        if !about.is_file() {
            return Err(Error::malformed(path, "this is no file"));
        }
        let header = header(&path, &file, about.len())?;
        let number = self.files.len();
        for (name, entry) in header.tensors {
            let located = Located { file: number, name: name.clone(), entry, order: Order::AsStored, scale: None };
            if self.tensors.insert(name.clone(), located).is_some() {
                return Err(Error::malformed(path, format!("{name} is in another shard too")));
            }
        }
        self.metadata.extend(header.metadata);
        self.files.push(Arc::new((path, file)));
        Ok(())
    }

    fn add_shards(&mut self, path: &Path) -> Result<()> {
        let size = std::fs::metadata(path).map_err(Error::file(path))?.len();
        if size > INDEX_LIMIT {
            return Err(Error::malformed(path, format!("{size} bytes are too many for an index")));
        }
        let text = std::fs::read(path).map_err(Error::file(path))?;
        let malformed = |reason: String| Error::malformed(path, reason);
        let index = formats::json::read(&text).map_err(malformed)?;
        let index = weights::shards_of_index(&index).map_err(malformed)?;
        let shards: BTreeSet<&str> = index.values().copied().collect();
        for shard in shards {
            self.add(path.with_file_name(shard))?;
        }
        for (name, shard) in &index {
            let found = self.tensors.get(*name).is_some_and(|tensor| self.files[tensor.file].0.ends_with(shard));
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

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The combined headers of all files.
    pub(crate) fn header(&self) -> Header {
        let tensors = self.tensors.iter().map(|(name, located)| (name.clone(), located.entry.clone()));
        Header { tensors: tensors.collect(), metadata: self.metadata.clone() }
    }

    /// The header's metadata strings.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The shape of a tensor.
    pub fn shape(&self, name: &str) -> Result<Vec<usize>> {
        Ok(self.located(name)?.entry.shape.clone())
    }

    /// Renames `copy`, another program's name for the same tensor, to `original`.
    pub fn alias(mut self, copy: &str, original: &str) -> Self {
        if let Some(located) = self.tensors.remove(copy) {
            self.tensors.entry(original.to_owned()).or_insert(located);
        }
        self
    }

    /// Removes a tensor without information, if it exists.
    pub fn without(mut self, name: &str) -> Self {
        self.tensors.remove(name);
        self
    }

    /// Applies the scales of fp8, and removes them and the markers of the format.
    fn with_scales(mut self) -> Result<Self> {
        let names: Vec<String> = self.tensors.keys().cloned().collect();
        for name in &names {
            let scale = self.scale_of(name)?;
            if let (Some(scale), Some(located)) = (scale, self.tensors.get_mut(name)) {
                located.scale = Some(scale);
            }
        }
        self.tensors.retain(|name, _| !scaling::is_scaling(name));
        Ok(self)
    }

    /// Renames `query` to `to_q` and so on: the autoencoders of the first published Stable Diffusion folders use the
    /// old names.
    fn with_current_attention_names(mut self) -> Self {
        const RENAMED: [(&str, &str); 4] =
            [("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")];
        let renamed = |name: &str| {
            let (layer, leaf) = name.rsplit_once('.')?;
            let (path, old) = layer.rsplit_once('.')?;
            let block = path.rsplit_once('.').is_some_and(|(list, _)| list.ends_with(".attentions"));
            let (_, new) = RENAMED.iter().find(|(known, _)| block && *known == old)?;
            Some(format!("{path}.{new}.{leaf}"))
        };
        let tensors = std::mem::take(&mut self.tensors);
        self.tensors = tensors.into_iter().map(|(name, at)| (renamed(&name).unwrap_or(name), at)).collect();
        self
    }

    /// Reads all values of a tensor in row-major order.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        let Located { file, entry, order, scale, .. } = self.located(name)?;
        let (path, file) = &*self.files[*file];
        let block = entry.kind.block().1;
        let piece = PIECE - PIECE % block;
        let mut values = Vec::with_capacity(entry.shape.iter().product());
        let mut bytes = vec![0; piece.min(entry.length)];
        for at in (0..entry.length).step_by(piece) {
            let bytes = &mut bytes[..piece.min(entry.length - at)];
            file.read_exact_at(bytes, entry.start + at as u64).map_err(Error::file(path))?;
            if !values::widen(entry.kind, bytes, &mut values) {
                return Err(self.unreadable(name, entry.kind));
            }
        }
        if let Some(scale) = scale {
            values.iter_mut().for_each(|value| *value *= scale);
        }
        match order {
            Order::AsStored => {}
            Order::HalvesSwapped => {
                let half = values.len() / 2;
                values.rotate_left(half);
            }
            Order::Transposed => values = transposed(&values, &entry.shape),
        }
        Ok(values)
    }

    /// Reads a tensor of one number, which may be an integer.
    pub(crate) fn read_number(&self, name: &str) -> Result<f64> {
        let Located { file, entry, .. } = self.located(name)?;
        let (path, file) = &*self.files[*file];
        let mut bytes = vec![0; entry.length.min(size_of::<f64>())];
        file.read_exact_at(&mut bytes, entry.start).map_err(Error::file(path))?;
        values::number(entry.kind, &bytes).ok_or_else(|| Error::malformed(path, format!("{name} is not one number")))
    }

    /// Reads a tensor in the given dtype.
    pub(super) fn read(&self, name: &str, dtype: DType) -> Result<TensorData> {
        let Located { file, entry, order, scale, .. } = self.located(name)?;
        let as_it_is = *order != Order::Transposed && scale.is_none();
        if dtype != DType::F32 && values::dtype(entry.kind) == Some(dtype) && as_it_is {
            let (path, file) = &*self.files[*file];
            let mut bytes = vec![0; entry.length];
            file.read_exact_at(&mut bytes, entry.start).map_err(Error::file(path))?;
            if *order == Order::HalvesSwapped {
                bytes.rotate_left(entry.length / 2);
            }
            return Ok(TensorData::from_bytes_vec(bytes, entry.shape.clone(), dtype));
        }
        let data = TensorData::new(self.read_f32(name)?, entry.shape.clone());
        Ok(if dtype == DType::F32 { data } else { data.convert_dtype(dtype) })
    }

    /// The dtype of 16 bits in which a tensor is kept: its own, or bf16 if it is wider or quantised.
    pub(super) fn half_of(&self, name: &str) -> DType {
        match self.tensors.get(name) {
            Some(Located { entry: Tensor { kind: TensorType::F16, .. }, scale: None, .. }) => DType::F16,
            _ => DType::BF16,
        }
    }

    fn located(&self, name: &str) -> Result<&Located> {
        self.tensors.get(name).ok_or_else(|| Error::malformed(&self.path, format!("there is no tensor {name}")))
    }

    /// The file's name for a key, whether the file contains it or not.
    pub(super) fn name_in_file(&self, key: &str) -> String {
        let found = self.tensors.get(key).map(|tensor| &tensor.name);
        found.or_else(|| self.absent.get(key)).cloned().unwrap_or_else(|| format!("{}{key}", self.prefix))
    }

    fn unreadable(&self, name: &str, kind: TensorType) -> Error {
        let name = self.name_in_file(name);
        Error::malformed(&self.path, format!("{name} is {kind:?}; only floats can be read"))
    }
}

/// Reads and checks the header of an open file of `size` bytes. The format, safetensors or GGUF, is detected from the
/// content.
fn header(path: &Path, file: &File, size: u64) -> Result<Header> {
    let refused = |refusal: formats::Refusal| Error::malformed(path, refusal.to_string());
    let mut sniffer = Sniffer::default();
    let mut at = 0;
    while sniffer.wants() > 0 && at < size {
        let mut bytes = vec![0; sniffer.wants().min((size - at) as usize)];
        file.read_exact_at(&mut bytes, at).map_err(Error::file(path))?;
        sniffer.push(&bytes).map_err(refused)?;
        at += bytes.len() as u64;
    }
    sniffer.finish(size).map_err(refused)
}

/// Transposes a matrix stored as `[columns, rows]` into `[rows, columns]`.
fn transposed(values: &[f32], shape: &[usize]) -> Vec<f32> {
    match shape {
        &[rows, _] if !values.is_empty() => {
            (0..rows).flat_map(|row| values.iter().skip(row).step_by(rows)).copied().collect()
        }
        _ => values.to_vec(),
    }
}
