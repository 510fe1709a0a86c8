//! The parameters of a generation and of a training, with every value validated and every default filled in. The row in
//! the database, the order to the engine, the recipe in a picture and the API's response use the same types, so each
//! parameter is defined once.
//!
//! Requests as clients send them, with most fields optional, belong to `domain`; the effects of the values belong to
//! `diffusion`.

mod generation;
mod limits;
mod output;
pub mod prompt;
pub mod recipe;
mod training;
pub mod warnings;

pub use generation::GenerationParams;
pub use limits::{OutOfRange, in_range};
pub use output::OutputFormat;
pub use prompt::PromptSyntax;
pub use recipe::Recipe;
pub use training::TrainingParams;

pub use limits::generation as generation_limits;
pub use limits::training as training_limits;
