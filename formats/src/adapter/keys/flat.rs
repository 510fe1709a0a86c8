//! Names in which underscores replace the dots. Since parts of a name contain underscores too, the dots can only be
//! restored with a list of the parts that a network consists of.

/// The name with dots: each part is a number or the longest match in `parts`. `None` if anything else occurs.
pub(super) fn unflatten(flat: &str, parts: &[&str]) -> Option<String> {
    let mut dotted = String::with_capacity(flat.len());
    let mut rest = flat;
    loop {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let fits = |part: &&&str| rest.strip_prefix(**part).is_some_and(ends_here);
        let part = match parts.iter().filter(fits).max_by_key(|part| part.len()) {
            Some(part) => part,
            None if digits > 0 && ends_here(&rest[digits..]) => &rest[..digits],
            None => return None,
        };
        dotted.push_str(part);
        rest = &rest[part.len()..];
        let Some(next) = rest.strip_prefix('_') else { return Some(dotted) };
        dotted.push('.');
        rest = next;
    }
}

fn ends_here(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with('_')
}

/// Whether each part of a dotted name is a number or in `parts`.
pub(super) fn consists_of(dotted: &str, parts: &[&str]) -> bool {
    dotted.split('.').all(|part| parts.contains(&part) || is_number(part))
}

/// Whether this can be a block number: one to four digits.
pub(super) fn is_number(part: &str) -> bool {
    (1..=4).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_part_wins() {
        let parts = ["to_out", "to", "proj", "proj_out", "net"];
        assert_eq!(unflatten("to_out_0", &parts).as_deref(), Some("to_out.0"));
        assert_eq!(unflatten("net_0_proj", &parts).as_deref(), Some("net.0.proj"));
        assert_eq!(unflatten("proj_out", &parts).as_deref(), Some("proj_out"));
        assert_eq!(unflatten("proj_outer", &parts), None);
        assert_eq!(unflatten("proj_", &parts), None);
        assert_eq!(unflatten("", &parts), None);
    }
}
