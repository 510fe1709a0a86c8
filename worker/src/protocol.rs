//! The messages between worker and engine: typed, versioned, one JSON document per frame.
//!
//! A frame is a little-endian `u32` with the number of bytes, followed by that many bytes of JSON. The child's stdin
//! and stdout carry nothing else; its logs go to stderr. Job state, storage keys and tensors do not belong here: the
//! two sides share only files on the local disk and the numbers of requests.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use domain::artifact::OutputKind;
use domain::job::ErrorClass;
use requests::{GenerationParams, TrainingParams};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The version of this file's messages. Both sides are the same binary, so a difference means that the binary was
/// replaced under a running worker; the worker then refuses the child.
pub const PROTOCOL_VERSION: u32 = 7;

/// The longest frame either side accepts, in bytes. A training of 10 000 examples with long captions fits.
pub const MAX_FRAME: usize = 16 * 1024 * 1024;

/// The number of a request, unique within one worker process.
pub type RequestId = u64;

/// From the worker to its engine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Order {
    /// The first message; the engine answers with [`Report::Ready`].
    Hello {
        /// The worker's [`PROTOCOL_VERSION`].
        version: u32,
    },
    /// Make pictures.
    Generate(Box<Generate>),
    /// Train an adapter.
    Train(Box<Train>),
    /// Load a model for the next request.
    Load {
        /// Number of this request.
        request: RequestId,
        /// The model.
        base: Base,
    },
    /// Unload a model, if it is loaded.
    Unload {
        /// Number of this request.
        request: RequestId,
        /// [`Base::sha256`] of the model.
        sha256: String,
    },
    /// Stop a request between two steps or while weights are read; the answer is [`Report::Canceled`].
    Cancel {
        /// The request to stop; other requests are not affected.
        request: RequestId,
    },
    /// Stop a training after a checkpoint, to continue it elsewhere; the answer is [`Report::Suspended`]. While weights
    /// are read, there is nothing to store yet.
    Suspend {
        /// The request to stop.
        request: RequestId,
    },
    /// Finish the current request, then end the process.
    Shutdown,
}

/// A model that the engine has loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resident {
    /// [`Base::sha256`] of the model.
    pub sha256: String,
    /// Memory that its weights take, in bytes.
    pub bytes: u64,
}

/// A checkpoint folder in diffusers layout on the local disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Base {
    /// The folder with `model_index.json`.
    pub folder: PathBuf,
    /// The model's name, for the picture's metadata.
    pub name: String,
    /// The checkpoint's digest (hex): the key under which the loaded pipeline is kept.
    pub sha256: String,
}

/// An adapter file on the local disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adapter {
    /// The safetensors file.
    pub path: PathBuf,
    /// The model's name, for the picture's metadata.
    pub name: String,
    /// Digest of the file (hex).
    pub sha256: String,
    /// Strength; 1 is full strength.
    pub scale: f64,
    /// Strength on the text encoders, if it is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_encoder_scale: Option<f64>,
}

/// A picture on the local disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalPicture {
    /// The image file.
    pub path: PathBuf,
    /// Digest of the file (hex), for the picture's metadata.
    pub sha256: String,
}

impl AsRef<Path> for LocalPicture {
    fn as_ref(&self) -> &Path {
        &self.path
    }
}

/// An order to make pictures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generate {
    /// Number of this request.
    pub request: RequestId,
    /// The model.
    pub base: Base,
    /// Adapters, in the order of the request.
    pub loras: Vec<Adapter>,
    /// The parameters, as stored in the row.
    pub params: GenerationParams<LocalPicture>,
    /// Seed of the first picture; picture `i` uses `seed + i`.
    pub seed: u64,
    /// The tiny autoencoder that decodes previews; without it a linear map is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vae_approx: Option<PathBuf>,
    /// An existing folder for the pictures and the previews' JPEG files.
    pub output_dir: PathBuf,
}

/// One picture to train on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Example {
    /// The image file.
    pub path: PathBuf,
    /// Its caption.
    pub caption: String,
}

/// An order to train an adapter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Train {
    /// Number of this request.
    pub request: RequestId,
    /// The model to train on.
    pub base: Base,
    /// The pictures.
    pub examples: Vec<Example>,
    /// The parameters, as stored in the row.
    pub params: TrainingParams,
    /// A checkpoint of an earlier attempt to continue from.
    pub resume: Option<PathBuf>,
    /// An existing folder for checkpoints and the adapter.
    pub output_dir: PathBuf,
    /// Steps between two checkpoints.
    pub checkpoint_every: usize,
    /// Metadata for the adapter's safetensors header.
    pub metadata: BTreeMap<String, String>,
}

/// A file that a request made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// Position among the outputs of the request, from 0.
    pub position: usize,
    /// The file.
    pub path: PathBuf,
    /// The kind of output.
    pub kind: OutputKind,
    /// Its media type, such as `image/png`.
    pub media_type: String,
    /// Width and height in pixels, for outputs that have them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<[u32; 2]>,
    /// The seed with which it can be made again, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

/// From the engine to its worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Report {
    /// The device is open; orders are accepted.
    Ready {
        /// The engine's [`PROTOCOL_VERSION`].
        version: u32,
        /// The device in use, for display.
        device: String,
        /// Why the device is not the expected one, such as a missing driver.
        why: Option<String>,
        /// What the engine may use, if its memory is known.
        budget: Option<memory::Budget>,
    },
    /// The models that are loaded now. Sent whenever they change, also in the middle of a request.
    Resident {
        /// In no particular order.
        models: Vec<Resident>,
    },
    /// The request has begun and its model is being loaded; a sign of life before the first step.
    Loading {
        /// Number of the request.
        request: RequestId,
    },
    /// Weights are being read, which takes longer than a second.
    Reading {
        /// Number of the request.
        request: RequestId,
        /// Bytes read so far; all of them when nothing more is reported.
        bytes: u64,
        /// Bytes to be read.
        total_bytes: u64,
        /// Seconds since the first byte was requested.
        seconds: f64,
    },
    /// A step is done.
    Progress {
        /// Number of the request.
        request: RequestId,
        /// Steps done, from 1.
        step: usize,
        /// Total number of steps.
        total_steps: usize,
        /// Training loss of this step.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        loss: Option<f64>,
        /// Seconds this step took.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seconds_per_step: Option<f64>,
    },
    /// A preview of a picture in progress is on disk.
    Preview {
        /// Number of the request.
        request: RequestId,
        /// Steps done, from 1.
        step: usize,
        /// Total number of steps.
        total_steps: usize,
        /// Position in the batch, from 0.
        position: usize,
        /// The JPEG file.
        path: PathBuf,
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// A file is complete on the local disk.
    Output {
        /// Number of the request.
        request: RequestId,
        /// The file.
        output: Output,
    },
    /// A checkpoint is on the local disk, from which the training can continue.
    Checkpoint {
        /// Number of the request.
        request: RequestId,
        /// The file.
        path: PathBuf,
        /// Steps done at this checkpoint.
        step: usize,
    },
    /// A warning for the user; the work continues.
    Warning {
        /// Number of the request.
        request: RequestId,
        /// A sentence.
        message: String,
    },
    /// The work is done.
    Done {
        /// Number of the request.
        request: RequestId,
    },
    /// The work stopped because the worker asked for it.
    Canceled {
        /// Number of the request.
        request: RequestId,
    },
    /// The training stopped after a checkpoint, because the worker asked for it.
    Suspended {
        /// Number of the request.
        request: RequestId,
    },
    /// The request failed.
    Failed {
        /// Number of the request.
        request: RequestId,
        /// The class of the failure, which decides whether it is retried.
        class: FailureClass,
        /// A sentence.
        message: String,
        /// The least memory in bytes that the request takes on any device, if it does not fit into this engine's limit.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        memory: Option<u64>,
    },
}

impl Report {
    /// The request this report is about; `None` for [`Report::Ready`] and [`Report::Resident`].
    pub fn request(&self) -> Option<RequestId> {
        match self {
            Self::Ready { .. } | Self::Resident { .. } => None,
            Self::Loading { request }
            | Self::Reading { request, .. }
            | Self::Progress { request, .. }
            | Self::Preview { request, .. }
            | Self::Output { request, .. }
            | Self::Checkpoint { request, .. }
            | Self::Warning { request, .. }
            | Self::Done { request, .. }
            | Self::Canceled { request }
            | Self::Suspended { request }
            | Self::Failed { request, .. } => Some(*request),
        }
    }

    /// Whether this is the last report of its request.
    pub fn is_last(&self) -> bool {
        matches!(self, Self::Done { .. } | Self::Canceled { .. } | Self::Suspended { .. } | Self::Failed { .. })
    }
}

/// Why the engine failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// The request can never succeed: a prompt, size, model or adapter that does not fit.
    InvalidInput,
    /// A file or the device could not be used on this machine; the request may succeed on another.
    Resource,
    /// The disk of this machine is full.
    Disk,
    /// A defect in the engine.
    Internal,
}

impl From<FailureClass> for ErrorClass {
    fn from(class: FailureClass) -> Self {
        match class {
            FailureClass::InvalidInput => Self::InvalidInput,
            FailureClass::Resource | FailureClass::Disk => Self::Resource,
            FailureClass::Internal => Self::Internal,
        }
    }
}

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The pipe broke, possibly in the middle of a frame.
    #[error("pipe: {0}")]
    Pipe(#[from] io::Error),
    /// The length is above [`MAX_FRAME`]: the other side wrote something that is not a frame.
    #[error("a frame of {0} bytes is longer than the {MAX_FRAME} allowed")]
    TooLong(usize),
    /// The bytes are not a message.
    #[error("not a message: {0}")]
    Malformed(#[from] serde_json::Error),
}

fn encode(message: &impl Serialize) -> Result<Vec<u8>, FrameError> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message)?;
    let length = frame.len() - 4;
    if length > MAX_FRAME {
        return Err(FrameError::TooLong(length));
    }
    frame[..4].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(frame)
}

fn checked_length(prefix: [u8; 4]) -> Result<usize, FrameError> {
    let length = u32::from_le_bytes(prefix) as usize;
    if length > MAX_FRAME { Err(FrameError::TooLong(length)) } else { Ok(length) }
}

/// Writes one frame and flushes it.
pub fn write(to: &mut impl Write, message: &impl Serialize) -> Result<(), FrameError> {
    to.write_all(&encode(message)?)?;
    Ok(to.flush()?)
}

/// Reads one frame; `None` when the other side closed the pipe between two frames.
pub fn read<T: DeserializeOwned>(from: &mut impl Read) -> Result<Option<T>, FrameError> {
    let mut prefix = [0; 4];
    if from.read(&mut prefix[..1])? == 0 {
        return Ok(None);
    }
    from.read_exact(&mut prefix[1..])?;
    let mut body = vec![0; checked_length(prefix)?];
    from.read_exact(&mut body)?;
    Ok(Some(serde_json::from_slice(&body)?))
}

/// [`write()`] for the worker's side.
pub async fn send(to: &mut (impl AsyncWrite + Unpin), message: &impl Serialize) -> Result<(), FrameError> {
    to.write_all(&encode(message)?).await?;
    Ok(to.flush().await?)
}

/// [`read`] for the worker's side. It is not cancel safe: run it in a separate task.
pub async fn receive<T: DeserializeOwned>(from: &mut (impl AsyncRead + Unpin)) -> Result<Option<T>, FrameError> {
    let mut prefix = [0; 4];
    if from.read(&mut prefix[..1]).await? == 0 {
        return Ok(None);
    }
    from.read_exact(&mut prefix[1..]).await?;
    let mut body = vec![0; checked_length(prefix)?];
    from.read_exact(&mut body).await?;
    Ok(Some(serde_json::from_slice(&body)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reports() -> Vec<Report> {
        vec![
            Report::Ready {
                version: 1,
                device: "cpu".into(),
                why: Some("no driver".into()),
                budget: Some(memory::Budget {
                    bytes: u64::MAX,
                    host: Some(1),
                    compute: memory::ComputeType::Bf16,
                    weights: memory::WeightChoice::Always(memory::WeightStorage::Int8),
                    offload: memory::Offload::Text,
                }),
            },
            Report::Progress { request: 7, step: 1, total_steps: 4, loss: Some(0.25), seconds_per_step: None },
            Report::Output {
                request: 7,
                output: Output {
                    position: 0,
                    path: "/o/0.png".into(),
                    kind: OutputKind::Image,
                    media_type: "image/png".into(),
                    size: Some([64, 32]),
                    seed: Some(u64::MAX),
                },
            },
            Report::Failed {
                request: 7, class: FailureClass::InvalidInput, message: "größer".into(), memory: Some(7)
            },
            Report::Resident { models: vec![Resident { sha256: "aa".into(), bytes: u64::MAX }] },
            Report::Done { request: 7 },
        ]
    }

    #[test]
    fn frames_come_back_as_they_were_written() {
        let mut wire = Vec::new();
        for report in reports() {
            write(&mut wire, &report).unwrap();
        }
        let mut from = wire.as_slice();
        for report in reports() {
            assert_eq!(read::<Report>(&mut from).unwrap(), Some(report));
        }
        assert_eq!(read::<Report>(&mut from).unwrap(), None);
    }

    #[tokio::test]
    async fn both_sides_speak_the_same_frames() {
        let (mut near, mut far) = tokio::io::duplex(64);
        let order = Order::Cancel { request: 3 };
        let sent = order.clone();
        let writing = tokio::spawn(async move { send(&mut near, &sent).await });
        assert_eq!(receive::<Order>(&mut far).await.unwrap(), Some(order));
        writing.await.unwrap().unwrap();
        assert_eq!(receive::<Order>(&mut far).await.unwrap(), None);
    }

    #[test]
    fn malformed_frames_are_refused() {
        let framed = |body: &[u8]| [&(body.len() as u32).to_le_bytes(), body].concat();
        let cases: Vec<(&str, Vec<u8>)> = vec![
            ("half a length", vec![1, 0]),
            ("length without body", 9u32.to_le_bytes().to_vec()),
            ("cut body", [&9u32.to_le_bytes()[..], b"{}"].concat()),
            ("text on stdout", b"hello world, I am a log line".to_vec()),
            ("huge length", u32::MAX.to_le_bytes().to_vec()),
            ("one byte over the limit", ((MAX_FRAME + 1) as u32).to_le_bytes().to_vec()),
            ("not JSON", framed(b"\xff\xfe")),
            ("unknown type", framed(br#"{"type":"dance"}"#)),
            ("unknown field", framed(br#"{"type":"canceled","request":1,"extra":2}"#)),
            ("missing field", framed(br#"{"type":"progress","request":1}"#)),
            ("wrong type", framed(br#"{"type":"canceled","request":"one"}"#)),
            ("empty body", framed(b"")),
            ("two documents", framed(br#"{"type":"canceled","request":1}{}"#)),
        ];
        for (name, wire) in cases {
            assert!(read::<Report>(&mut wire.as_slice()).is_err(), "{name} was accepted");
        }
    }

    #[test]
    fn a_message_above_the_limit_is_not_sent() {
        let message = "x".repeat(MAX_FRAME);
        let report = Report::Warning { request: 1, message };
        let mut wire = Vec::new();
        assert!(matches!(write(&mut wire, &report), Err(FrameError::TooLong(_))));
        assert!(wire.is_empty());
    }
}
