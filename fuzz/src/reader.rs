//! Files and prompts, read as the engine reads them.

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use diffusion::LoraFile;
use diffusion::checkpoint::{Checkpoint, SingleFile};
use diffusion::lora::{self, Dtype, Format};
use diffusion::prompt;
use diffusion::tokenizers::clip::ClipTokenizer;
use formats::{Family, Part};

use super::framing::framed;

/// Files from the fuzzer are small; tensors with more values than this are not read.
const MOST_VALUES: usize = 1 << 16;
/// Limits of an adapter: the longest side of a tensor, and the total bytes.
const LONGEST_SIDE: usize = 24;
const MOST_BYTES: usize = 1 << 20;

/// In memory if the machine has `/dev/shm`.
static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let memory = tempfile::tempdir_in("/dev/shm");
    memory.or_else(|_| tempfile::tempdir()).expect("a folder for files")
});
static TOKENIZER: LazyLock<ClipTokenizer> =
    LazyLock::new(|| ClipTokenizer::published("<|endoftext|>").expect("the published tokenizer"));

fn written(name: &str, bytes: &[u8]) -> PathBuf {
    let path = FOLDER.path().join(name);
    fs::write(&path, bytes).expect("a file is written");
    path
}

/// Whether the reader opens a safetensors or GGUF file. If it does, its values are read, and it is tried as a
/// single-file model and as each part of one.
pub fn weights(name: &str, bytes: &[u8]) -> bool {
    let path = written(name, bytes);
    let Ok(file) = Checkpoint::open(&path) else { return false };
    for name in file.names() {
        let shape = file.shape(name).expect("a name that is there has a shape");
        if shape.iter().product::<usize>() <= MOST_VALUES
            && let Ok(values) = file.read_f32(name)
        {
            assert_eq!(values.len(), shape.iter().product::<usize>(), "{name}");
        }
    }
    if let Ok(single) = SingleFile::open(&path) {
        for (family, part) in Family::ALL.iter().flat_map(|family| Part::NETWORKS.map(|part| (*family, part))) {
            let _ = single.part_for(family, part);
        }
        let _ = single.scheduler_config();
    }
    true
}

/// An adapter whose keys the fuzzer writes: one line for each tensor with its name and sides, `name 4 8`; lines that
/// begin with `#` belong to the header, `#name text`. An adapter that can be read is inspected, and written in each
/// dialect.
pub fn adapter(lines: &[u8]) {
    let text = String::from_utf8_lossy(lines);
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let (mut header, mut entries, mut at) = (Vec::new(), Vec::new(), 0);
    for line in text.lines().take(200) {
        if let Some((name, value)) = line.strip_prefix('#').and_then(|line| line.split_once(' ')) {
            header.push(format!("{}:{}", quoted(name), quoted(value)));
            continue;
        }
        let mut words = line.split(' ');
        let name = words.next().unwrap_or_default();
        let shape: Vec<usize> = words.take(4).map(|side| side.parse().unwrap_or(1).min(LONGEST_SIDE)).collect();
        let bytes = 4 * shape.iter().product::<usize>();
        if at + bytes > MOST_BYTES {
            break;
        }
        let name = quoted(name);
        entries.push(format!(r#"{name}:{{"dtype":"F32","shape":{shape:?},"data_offsets":[{at},{}]}}"#, at + bytes));
        at += bytes;
    }
    entries.insert(0, format!(r#""__metadata__":{{{}}}"#, header.join(",")));
    let data = 0.5f32.to_le_bytes().repeat(at / 4);
    let path =
        written("adapter.safetensors", &framed(&[format!("{{{}}}", entries.join(",")).as_bytes(), &data].concat()));
    let (about, file) = (lora::inspect(&path), LoraFile::open(&path));
    assert_eq!(about.is_ok(), file.is_ok(), "what can be described can be opened, and the reverse");
    let Ok(file) = file else { return };
    for format in Format::ALL {
        let out = FOLDER.path().join("written.safetensors");
        if lora::export(&file, format, Dtype::F32, &out).is_ok() {
            LoraFile::open(&out).expect("what was written can be read");
        }
    }
}

/// Parses a prompt's weights and cuts it into chunks of tokens.
pub fn prompt(text: &[u8]) {
    let text = String::from_utf8_lossy(text);
    if prompt::check_length("prompt", &text).is_err() {
        return;
    }
    if let Ok(pieces) = prompt::parse(&text) {
        let letters: usize = pieces
            .iter()
            .map(|piece| match piece {
                prompt::Piece::Text { text, weight } => {
                    assert!(weight.abs() <= prompt::HEAVIEST);
                    text.len()
                }
                prompt::Piece::Break => 0,
            })
            .sum();
        assert!(letters <= text.len(), "a piece says more than the prompt");
    }
    if let Ok(chunks) = prompt::chunks(&text, &TOKENIZER) {
        assert!((1..=prompt::MOST_CHUNKS).contains(&chunks.len()));
        assert!(chunks.iter().all(|chunk| chunk.ids.len() == 77));
    }
}
