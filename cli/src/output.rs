//! Results on stdout. Progress and warnings are elsewhere, on stderr.

/// `println!` for results: when nobody reads any more (`pyrograph models list | head -1`) that is no failure of ours.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout().lock(), $($text)*);
    }};
}
pub(crate) use say;
