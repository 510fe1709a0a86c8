//! The XMP packet of a JPEG or WebP file: the whole recipe as JSON, in the property `pyrograph:recipe`.
//!
//! Source: [Adobe, XMP Specification Part 1](https://github.com/adobe/XMP-Toolkit-SDK/tree/main/docs), section 7.

use std::fmt::Write as _;

use formats::picture::xmp::PROPERTY;

const CREATOR: &str = concat!("pyrograph ", env!("CARGO_PKG_VERSION"));

/// A packet with the recipe. `recipe` is JSON.
pub(super) fn packet(recipe: &str) -> String {
    wrapped(&recipe_property(recipe))
}

/// A packet that refers to extended XMP: the rest of the metadata is in an extension whose MD5 digest, in upper-case
/// hex, is `guid`. A JPEG segment holds less than 64 KiB.
pub(super) fn packet_with_extension(guid: &str) -> String {
    let property = format!(
        "<xmpNote:HasExtendedXMP xmlns:xmpNote=\"http://ns.adobe.com/xmp/note/\">{guid}</xmpNote:HasExtendedXMP>"
    );
    wrapped(&property)
}

/// The extended packet that it refers to.
pub(super) fn extension(recipe: &str) -> String {
    described(&recipe_property(recipe))
}

fn wrapped(properties: &str) -> String {
    let creator = format!("<xmp:CreatorTool xmlns:xmp=\"http://ns.adobe.com/xap/1.0/\">{CREATOR}</xmp:CreatorTool>");
    let body = described(&format!("{creator}{properties}"));
    format!("<?xpacket begin=\"\u{feff}\" id=\"W5M0MpCehiHzreSzNTczkc9d\"?>{body}<?xpacket end=\"r\"?>")
}

fn described(properties: &str) -> String {
    format!(
        "<x:xmpmeta xmlns:x=\"adobe:ns:meta/\"><rdf:RDF xmlns:rdf=\"http://www.w3.org/1999/02/22-rdf-syntax-ns#\">\
         <rdf:Description rdf:about=\"\">{properties}</rdf:Description></rdf:RDF></x:xmpmeta>"
    )
}

fn recipe_property(recipe: &str) -> String {
    format!("<{PROPERTY} xmlns:pyrograph=\"urn:pyrograph:1.0/\">{}</{PROPERTY}>", escaped(recipe))
}

/// Escapes JSON as the content of an XML element. Characters that XML does not allow are written as JSON escapes.
fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for letter in json.chars() {
        match letter {
            '&' => text.push_str("&amp;"),
            '<' => text.push_str("&lt;"),
            '>' => text.push_str("&gt;"),
            // An XML reader would turn a carriage return into a line feed; U+FFFE and U+FFFF are not allowed in XML at
            // all.
            '\0'..' ' | '\u{7f}'..='\u{9f}' | '\u{fffe}'..='\u{ffff}' => {
                let _ = write!(text, "\\u{:04x}", u32::from(letter));
            }
            other => text.push(other),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_is_no_xml_stays_json() {
        let recipe = serde_json::json!({"prompt": "<a> & \u{1}\u{ffff}\r\n\u{85} \"b\""});
        let json = escaped(&recipe.to_string()).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
        assert!(json.chars().all(|letter| (' '..'\u{fffe}').contains(&letter)));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap(), recipe);
    }
}
