//! Runs a fuzzer's bytes through the code, one function for each target. No input may cause a panic. Tests of the
//! crates include these files and give the committed corpus to the same functions.

pub mod framing;
pub mod gate;
pub mod reader;
