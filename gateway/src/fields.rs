//! Field values that are lists (RFC 9110 §5.6).

/// The parts of a value between the `separator`s that stand outside of quoted strings, without the blanks around
/// them. Empty ones do not count (§5.6.1.2).
pub(crate) fn parts(value: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    let is_separator = move |character: char| {
        let separates = character == separator && !quoted;
        match character {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => {}
        }
        separates
    };
    value.split(is_separator).map(str::trim).filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_strings_are_not_split() {
        let split = |value, separator| parts(value, separator).collect::<Vec<_>>();
        assert_eq!(split("a, ,b,", ','), ["a", "b"]);
        assert_eq!(split(r#"x="a,b;c\", d", wait=3"#, ','), [r#"x="a,b;c\", d""#, "wait=3"]);
        assert_eq!(split(r#"x="a;b";wait=3"#, ';'), [r#"x="a;b""#, "wait=3"]);
        assert_eq!(split("", ','), [""; 0]);
    }
}
