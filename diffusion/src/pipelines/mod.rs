//! Pipelines: networks, tokenizers and a scheduler working together, from a prompt to pictures: encode, prepare, denoise,
//! decode. One family a file.

pub mod flux;
