//! What is done with the bytes of a fuzzer, one function for each target. Nothing may panic, whatever the bytes. Tests of the
//! crates include these files and give the committed corpus to the same functions.

pub mod framing;
pub mod gate;
pub mod reader;
