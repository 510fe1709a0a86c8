//! What a generation and a training are asked to do, with every value checked and every default filled in. The row in the
//! database, the order to the engine, the recipe in a picture and the API's answer all hold the same types, so a
//! parameter is spelled here once.
//!
//! Requests as clients send them, with most fields left out, belong to `domain`; what the values do, to `diffusion`.

mod generation;
mod limits;
mod output;
mod training;

pub use generation::GenerationParams;
pub use limits::{OutOfRange, in_range};
pub use output::OutputFormat;
pub use training::TrainingParams;

pub use limits::generation as generation_limits;
pub use limits::training as training_limits;
