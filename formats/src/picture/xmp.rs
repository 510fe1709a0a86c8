//! The property of XMP that holds our recipe.

/// Prefix and name of the property.
pub const PROPERTY: &str = "pyrograph:recipe";

/// The recipe in a packet, as an element or, as some editors rewrite it, as an attribute.
pub(super) fn recipe(packet: &str) -> Option<String> {
    let (open, close) = (format!("<{PROPERTY}"), format!("</{PROPERTY}>"));
    if let Some((_, element)) = packet.split_once(&open) {
        let (_, content) = element.split_once('>')?;
        return Some(unescaped(content.split_once(&close)?.0));
    }
    let (_, value) = packet.split_once(&format!(" {PROPERTY}="))?;
    let quote = value.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
    Some(unescaped(value[1..].split_once(quote)?.0))
}

fn unescaped(text: &str) -> String {
    let replaced = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#34;", "\""), ("&apos;", "'"), ("&#39;", "'")]
        .iter()
        .fold(text.to_owned(), |text, (escaped, plain)| text.replace(escaped, plain));
    replaced.replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_and_attributes() {
        let recipe = |packet: &str| recipe(packet).unwrap_or_default();
        let json = r#"{"a": "<&>"}"#;
        assert_eq!(
            recipe(r#"<x><pyrograph:recipe xmlns:pyrograph="u">{"a": "&lt;&amp;&gt;"}</pyrograph:recipe></x>"#),
            json
        );
        assert_eq!(recipe(r#"<d pyrograph:recipe="{&quot;a&quot;: &quot;&lt;&amp;&gt;&quot;}"/>"#), json);
        for packet in ["", "<pyrograph:recipe", "<pyrograph:recipe>", " pyrograph:recipe=", " pyrograph:recipe=\"a"] {
            assert_eq!(recipe(packet), "");
        }
    }
}
