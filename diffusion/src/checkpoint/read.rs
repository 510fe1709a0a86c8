//! Open checkpoints: one file, or the shards that an index lists. Tensors are read individually, so that a checkpoint
//! is never in memory twice.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{DType, TensorData};
use formats::view::{Cut, Seen};
use formats::{Header, Sniffer, Tensor, TensorType, View, weights};

use super::{Reading, values};
use crate::{Error, Result};

/// File names that diffusers and transformers used before safetensors.
const PICKLES: [&str; 4] =
    ["diffusion_pytorch_model.bin", "pytorch_model.bin", "diffusion_pytorch_model.fp16.bin", "pytorch_model.fp16.bin"];
/// Size limit of a shard index, in bytes.
const INDEX_LIMIT: u64 = 8 << 20;
/// Values are read in chunks of this many bytes, so that widening them takes little memory and a cancel is noticed
/// soon.
const PIECE: usize = 1 << 20;

/// Named tensors on disk, opened and checked.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    path: PathBuf,
    files: Vec<Arc<(PathBuf, File)>>,
    /// The number of the file with each stored tensor.
    file_of: BTreeMap<String, usize>,
    /// The combined headers of all files.
    header: Header,
    view: View,
    reading: Reading,
}

impl Checkpoint {
    /// Opens a safetensors or GGUF file, or a network's folder with one such file or with shards, of which
    /// [`weights::choose`] chooses one variant. A file's tensors keep their names, a folder's are those of
    /// [`View::of_folder`].
    pub fn open(path: &Path) -> Result<Self> {
        let mut checkpoint = Self {
            path: path.to_owned(),
            files: Vec::new(),
            file_of: BTreeMap::new(),
            header: Header::default(),
            view: View::default(),
            reading: Reading::default(),
        };
        if !path.is_dir() {
            checkpoint.add(path.to_owned())?;
            checkpoint.view = View::of(&checkpoint.header);
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
            checkpoint.view = View::of_folder(&checkpoint.header).map_err(|reason| Error::malformed(path, reason))?;
            return Ok(checkpoint);
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
        for (name, tensor) in header.tensors {
            if self.file_of.insert(name.clone(), number).is_some() {
                return Err(Error::malformed(path, format!("{name} is in another shard too")));
            }
            self.header.tensors.insert(name, tensor);
        }
        self.header.metadata.extend(header.metadata);
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
            let found = self.file_of.get(*name).is_some_and(|number| self.files[*number].0.ends_with(shard));
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

    /// The same files with their tensors under other names. The view must be one of [`Self::header`].
    pub(super) fn seen_as(&self, view: View) -> Self {
        Self { view, ..self.clone() }
    }

    /// The same files with a change of names.
    pub(crate) fn with_names(self, change: impl FnOnce(View) -> View) -> Self {
        Self { view: change(self.view), ..self }
    }

    /// The same files. `reading` follows the reading of their tensors.
    pub(crate) fn followed_by(self, reading: &Reading) -> Self {
        Self { reading: reading.clone(), ..self }
    }

    /// What follows the reading of the tensors.
    pub(crate) fn reading(&self) -> &Reading {
        &self.reading
    }

    /// Bytes that its tensors take in the files.
    pub(crate) fn bytes(&self) -> u64 {
        self.names().map(|name| self.bytes_of(name)).sum()
    }

    /// Bytes that a tensor takes in its file; 0 if there is none of this name.
    pub(super) fn bytes_of(&self, name: &str) -> u64 {
        self.view.get(name).map_or(0, |seen| seen.tensor.length as u64)
    }

    /// The names of the tensors, and what they stand for.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.view.names()
    }

    /// The combined headers of all files, under the names in them.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The header's metadata strings.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.header.metadata
    }

    /// The shape of a tensor.
    pub fn shape(&self, name: &str) -> Result<Vec<usize>> {
        Ok(self.seen(name)?.tensor.shape.clone())
    }

    /// Reads all values of a tensor in row-major order.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        let Seen { name, tensor, cut, scale } = self.seen(name)?;
        let mut values = self.widened(name, tensor)?;
        let scale = scale.as_ref().and_then(|name| Some((name, self.header.tensors.get(name)?)));
        if let Some((name, scale)) = scale
            && let [scale] = self.widened(name, scale)?[..]
        {
            values.iter_mut().for_each(|value| *value *= scale);
        }
        match cut {
            Cut::Whole | Cut::Rows { .. } | Cut::Linear => {}
            Cut::HalvesSwapped => {
                let half = values.len() / 2;
                values.rotate_left(half);
            }
            Cut::Transposed => values = transposed(&values, &tensor.shape),
        }
        Ok(values)
    }

    /// Reads the bytes of a stored tensor, or of some of its rows, as f32.
    fn widened(&self, stored: &str, tensor: &Tensor) -> Result<Vec<f32>> {
        let block = tensor.kind.block().1;
        let piece = PIECE - PIECE % block;
        let mut values = Vec::with_capacity(tensor.shape.iter().product());
        let mut bytes = vec![0; piece.min(tensor.length)];
        for at in (0..tensor.length).step_by(piece) {
            let bytes = &mut bytes[..piece.min(tensor.length - at)];
            self.fill(stored, bytes, tensor.start + at as u64)?;
            if !values::widen(tensor.kind, bytes, &mut values) {
                let reason = format!("{stored} is {:?}; only floats can be read", tensor.kind);
                return Err(Error::malformed(&self.path, reason));
            }
        }
        Ok(values)
    }

    /// Reads a tensor of one number, which may be an integer.
    pub(crate) fn read_number(&self, name: &str) -> Result<f64> {
        let Seen { name, tensor, .. } = self.seen(name)?;
        let (path, file) = self.file(name)?;
        let mut bytes = vec![0; tensor.length.min(size_of::<f64>())];
        file.read_exact_at(&mut bytes, tensor.start).map_err(Error::file(path))?;
        values::number(tensor.kind, &bytes).ok_or_else(|| Error::malformed(path, format!("{name} is not one number")))
    }

    /// Reads a tensor in the given dtype.
    pub(super) fn read(&self, name: &str, dtype: DType) -> Result<TensorData> {
        let Seen { name: stored, tensor, cut, scale } = self.seen(name)?;
        let as_it_is = *cut != Cut::Transposed && scale.is_none();
        if dtype != DType::F32 && values::dtype(tensor.kind) == Some(dtype) && as_it_is {
            let mut bytes = vec![0; tensor.length];
            self.fill(stored, &mut bytes, tensor.start)?;
            if *cut == Cut::HalvesSwapped {
                bytes.rotate_left(tensor.length / 2);
            }
            return Ok(TensorData::from_bytes_vec(bytes, tensor.shape.clone(), dtype));
        }
        let data = TensorData::new(self.read_f32(name)?, tensor.shape.clone());
        Ok(if dtype == DType::F32 { data } else { data.convert_dtype(dtype) })
    }

    /// The dtype of 16 bits in which a tensor is kept: its own, or bf16 if it is wider or quantised.
    pub(super) fn half_of(&self, name: &str) -> DType {
        match self.view.get(name) {
            Some(Seen { tensor: Tensor { kind: TensorType::F16, .. }, scale: None, .. }) => DType::F16,
            _ => DType::BF16,
        }
    }

    /// The tensors whose names begin with `prefix`, without it.
    pub(crate) fn below(&self, prefix: &str) -> Self {
        Self { view: self.view.below(prefix), ..self.clone() }
    }

    fn seen(&self, name: &str) -> Result<&Seen> {
        self.view.get(name).ok_or_else(|| self.absent(name))
    }

    /// Reads bytes of a stored tensor, from `start` in its file.
    ///
    /// # Errors
    /// A file that has become shorter since it was opened. [`Error::Canceled`].
    fn fill(&self, stored: &str, bytes: &mut [u8], start: u64) -> Result<()> {
        let (path, file) = self.file(stored)?;
        let mut at = start;
        for piece in bytes.chunks_mut(PIECE) {
            file.read_exact_at(piece, at).map_err(|error| match error.kind() {
                ErrorKind::UnexpectedEof => {
                    let reason = format!("the file was shortened while it was read: it now ends before or in {stored}");
                    Error::file(path)(std::io::Error::new(ErrorKind::UnexpectedEof, reason))
                }
                _ => Error::file(path)(error),
            })?;
            at += piece.len() as u64;
            self.reading.advance(piece.len())?;
        }
        Ok(())
    }

    /// The file that stores a tensor.
    fn file(&self, stored: &str) -> Result<&(PathBuf, File)> {
        let number = self.file_of.get(stored).ok_or_else(|| self.absent(stored))?;
        Ok(&self.files[*number])
    }

    fn absent(&self, name: &str) -> Error {
        Error::malformed(&self.path, format!("there is no tensor {name}"))
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
