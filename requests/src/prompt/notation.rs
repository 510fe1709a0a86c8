//! Notation of A1111 and its extensions that is read as words here.

/// Most characters of a prompt that a sentence quotes.
const QUOTED: usize = 40;

/// A sentence for each kind of notation in `words`, a prompt without its tags, that has no effect. `weighs` is whether
/// the model's family weights words and reads `BREAK`.
pub fn without_effect(words: &str, weighs: bool) -> Vec<String> {
    let mut found = Found::default();
    found.scan(words, weighs);
    let mut sentences = Vec::new();
    let mut say = |text: Option<String>, why: &str| {
        sentences.extend(text.map(|text| format!("`{}` is read as words: {why}", quoted(&text))));
    };
    say(found.scheduled, "a prompt cannot change between the steps.");
    say(found.alternating, "a prompt cannot alternate between the steps.");
    say(found.random, "words are not chosen at random.");
    say(unclosed(words), "the `>` that ends it is missing.");
    say(wildcard(words), "there are no wildcards.");
    say(has_word(words, "AND").then(|| "AND".into()), "prompts are not combined.");
    if !weighs {
        say(found.weighted, "this family does not weight words.");
        say(has_word(words, "BREAK").then(|| "BREAK".into()), "this family reads the prompt in one piece.");
    }
    sentences
}

/// A tag of an extra network that does not end.
fn unclosed(words: &str) -> Option<String> {
    let lower = words.to_ascii_lowercase();
    let starts = ["<lora:", "<lyco:", "<hypernet:"].iter().filter_map(|start| lower.find(start));
    starts.min().map(|at| words[at..].to_owned()).filter(|tag| !tag.contains('>'))
}

/// The first of each kind.
#[derive(Default)]
struct Found {
    /// `[from:to:when]`
    scheduled: Option<String>,
    /// `[a|b]`
    alternating: Option<String>,
    /// `{a|b}`
    random: Option<String>,
    /// `(word:1.3)`, `((word))`
    weighted: Option<String>,
}

/// An open bracket and the separators directly inside.
struct Open {
    bracket: char,
    at: usize,
    /// Position after the last colon.
    colon: Option<usize>,
    bar: bool,
}

impl Found {
    fn scan(&mut self, words: &str, weighs: bool) {
        let mut open: Vec<Open> = Vec::new();
        let mut letters = words.char_indices();
        while let Some((at, letter)) = letters.next() {
            match letter {
                // The next character is text for a family that reads brackets; for others, brackets are text anyway.
                '\\' => drop(letters.next()),
                '[' | '(' | '{' => open.push(Open { bracket: letter, at, colon: None, bar: false }),
                ':' | '|' => {
                    if let Some(bracket) = open.last_mut() {
                        match letter {
                            ':' => bracket.colon = Some(at + 1),
                            _ => bracket.bar = true,
                        }
                    }
                }
                ']' | ')' | '}' => {
                    let opening = match letter {
                        ']' => '[',
                        ')' => '(',
                        _ => '{',
                    };
                    if let Some(last) = open.iter().rposition(|bracket| bracket.bracket == opening) {
                        self.close(words, &open[last], at, weighs);
                        open.truncate(last);
                    }
                }
                _ => {}
            }
        }
    }

    fn close(&mut self, words: &str, bracket: &Open, end: usize, weighs: bool) {
        let text = || Some(words[bracket.at..=end].to_owned());
        match bracket.bracket {
            '[' if bracket.bar => self.alternating = self.alternating.take().or_else(text),
            '[' if bracket.colon.is_some() => self.scheduled = self.scheduled.take().or_else(text),
            '{' if bracket.bar => self.random = self.random.take().or_else(text),
            '(' if !weighs => {
                let weight = bracket.colon.is_some_and(|colon| words[colon..end].trim().parse::<f64>().is_ok());
                let doubled = words[bracket.at..].starts_with("((") && words[..end].ends_with(')');
                if weight || doubled {
                    self.weighted = self.weighted.take().or_else(text);
                }
            }
            _ => {}
        }
    }
}

/// `__animal__`, the name of a file with words of which one is chosen.
fn wildcard(words: &str) -> Option<String> {
    let parts: Vec<&str> = words.split("__").collect();
    let is_name = |name: &str| {
        !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | '/' | '*'))
    };
    let between = parts.get(1..parts.len() - 1)?;
    between.iter().find(|name| is_name(name)).map(|name| format!("__{name}__"))
}

fn has_word(words: &str, word: &str) -> bool {
    words.split(|letter: char| !letter.is_alphanumeric() && letter != '_').any(|one| one == word)
}

fn quoted(text: &str) -> String {
    if text.chars().count() <= QUOTED {
        return text.to_owned();
    }
    text.chars().take(QUOTED - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notation_without_effect_is_named() {
        for (words, named) in [
            ("a [red:blue:0.5] fox", "`[red:blue:0.5]`"),
            ("a [blue:10] fox", "`[blue:10]`"),
            ("a [a:b] fox", "`[a:b]`"),
            ("a [(red:1.2)::5] fox", "`[(red:1.2)::5]`"),
            ("a [red|blue] fox", "`[red|blue]`"),
            ("a {red|blue} fox", "`{red|blue}`"),
            ("a __colours/dark__ fox", "`__colours/dark__`"),
            ("a fox AND snow", "`AND`"),
            ("a fox <LoRA:ink:0.8", "`<LoRA:ink:0.8`"),
        ] {
            for weighs in [true, false] {
                let sentences = without_effect(words, weighs);
                assert!(sentences.iter().any(|sentence| sentence.starts_with(named)), "{words}: {sentences:?}");
            }
        }
        let all = without_effect("[a:b:1] [c|d] {e|f} __g__ AND", true);
        assert_eq!(all.len(), 5, "{all:?}");
        let long = without_effect(&format!("[{}:1]", "狐".repeat(100)), true);
        assert!(long[0].contains('…') && long[0].chars().count() < 120, "{long:?}");
    }

    #[test]
    fn weights_are_named_where_nothing_reads_them() {
        for words in ["a (red:1.3) fox", "a ((red)) fox", "a (red fox: -.5 )", "(a (red:2) fox)"] {
            assert_eq!(without_effect(words, true), [""; 0], "{words}");
            let sentences = without_effect(words, false);
            assert!(sentences.len() == 1 && sentences[0].contains("does not weight"), "{words}: {sentences:?}");
        }
        assert_eq!(without_effect("a fox BREAK snow", true), [""; 0]);
        assert!(without_effect("a fox BREAK snow", false)[0].contains("`BREAK`"));
    }

    #[test]
    fn ordinary_text_is_not_notation() {
        for words in [
            "",
            "<lora:ink:1>",
            "a fox: red, 3:4",
            "a (red) fox, [snow]",
            "a fox (who said: hello)",
            r"a \[red:blue\] fox",
            "SAND BREAKFAST",
            "a | b",
            "snake_case __init",
            "{a}",
            "]:[",
            "((a) b) c: d",
        ] {
            assert_eq!(without_effect(words, false), [""; 0], "{words}");
        }
    }
}
