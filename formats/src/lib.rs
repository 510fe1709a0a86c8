//! The structure of FLUX.1 and Stable Diffusion files, without tensor computations: the headers of safetensors and GGUF
//! files, model families and their parts, the parameters of networks and their names in files, schedulers, the names
//! that trainers give to the tensors of an adapter, and the texts in files of pictures. The server and the engine both
//! read files through this crate, so they cannot disagree about a file. Weight values, computing and pipelines belong
//! to `diffusion`; rows and requests belong to `domain`.

pub mod adapter;
mod defaults;
pub mod detect;
mod family;
pub mod folder;
pub mod gguf;
mod header;
pub mod json;
pub mod networks;
mod part;
pub mod picture;
mod place;
pub mod safetensors;
pub mod scaling;
pub mod scheduler;
pub mod single_file;
mod sniffer;
mod tensor_type;
pub mod view;
pub mod weights;

pub use defaults::Defaults;
pub use detect::Configs;
pub use family::{Family, Guidance, Traits};
pub use header::{Header, MAX_DIMENSIONS, MAX_NAME_BYTES, MAX_TENSORS, Refusal, Tensor};
pub use part::{Part, is_root_weights, named_as};
pub use place::{Naming, Place};
pub use scheduler::Scheduler;
pub use sniffer::Sniffer;
pub use tensor_type::TensorType;
pub use view::View;
