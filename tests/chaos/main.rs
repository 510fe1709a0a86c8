//! Promises under attack and failure, whose proof takes minutes or half of the machine. Each has a number: `just chaos
//! 36` runs one, `just chaos` all.

#![expect(clippy::print_stdout, reason = "tests print what they measure")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod bucket;
mod dribblers;
