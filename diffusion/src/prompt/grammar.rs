//! From a prompt to pieces of text with one weight each. Any text is a prompt; only what is beyond the limits is refused.

use super::{DEEPEST, HEAVIEST};
use crate::{Error, Result};

/// What a round bracket multiplies the weight by if it names none; a square one divides.
const STEP: f64 = 1.1;
/// Ends a chunk of the text encoder, as a word of its own.
const BREAK: &str = "BREAK";

/// A part of a prompt.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// Words, with brackets and escapes resolved, and how much they count; 1 is as usual.
    Text { text: String, weight: f64 },
    /// What follows begins a new chunk.
    Break,
}

/// Reads weights: `(words)` is 1.1 of the weight around it, `(words:1.3)` is 1.3 of it, `[words]` a 1.1th; brackets nest. `\(`,
/// `\)`, `\[`, `\]` and `\\` are the signs themselves. A bracket that is never closed reaches to the end; one that closes
/// nothing is text. Neighbours of equal weight are one piece, so a prompt without any such sign is a single one.
///
/// Refused are brackets deeper than [`DEEPEST`] and weights beyond [`HEAVIEST`].
pub fn parse(prompt: &str) -> Result<Vec<Piece>> {
    let mut reading = Reading::default();
    let mut rest = prompt;
    while let Some(sign) = rest.chars().next() {
        let (sign, after) = rest.split_at(sign.len_utf8());
        rest = match sign {
            "\\" => {
                let (escaped, after) = after.split_at(usize::from(after.starts_with(SIGNS)));
                reading.text(escaped);
                after
            }
            "(" => reading.open(Bracket::Round, after)?,
            "[" => reading.open(Bracket::Square, after)?,
            ")" if reading.is_open(Bracket::Round) => reading.close(Bracket::Round, STEP, after),
            "]" if reading.is_open(Bracket::Square) => reading.close(Bracket::Square, 1.0 / STEP, after),
            ":" if reading.is_open(Bracket::Round)
                && let Some((weight, after)) = closing_weight(after) =>
            {
                reading.close(Bracket::Round, weight, after)
            }
            _ => {
                // A sign that means nothing here is text, and so is all up to the next sign.
                let words = sign.len() + after.find([':', '\\', '(', ')', '[', ']']).unwrap_or(after.len());
                let (words, after) = rest.split_at(words);
                reading.words(words);
                after
            }
        };
    }
    reading.finish()
}

/// What a backslash makes text of; each is one byte.
const SIGNS: [char; 5] = ['(', ')', '[', ']', '\\'];

#[derive(Debug, Clone, Copy)]
enum Bracket {
    Round,
    Square,
}

/// Pieces read so far, and where among them the brackets that are still open began.
#[derive(Default)]
struct Reading {
    pieces: Vec<Piece>,
    round: Vec<usize>,
    square: Vec<usize>,
}

impl Reading {
    fn stack(&mut self, bracket: Bracket) -> &mut Vec<usize> {
        match bracket {
            Bracket::Round => &mut self.round,
            Bracket::Square => &mut self.square,
        }
    }

    fn is_open(&mut self, bracket: Bracket) -> bool {
        !self.stack(bracket).is_empty()
    }

    /// Gives `after` back, as [`Self::close`] does: where the reading goes on.
    fn open<'a>(&mut self, bracket: Bracket, after: &'a str) -> Result<&'a str> {
        if self.round.len() + self.square.len() == DEEPEST {
            return Err(Error::Invalid(format!("the prompt has more than {DEEPEST} brackets open at once")));
        }
        let start = self.pieces.len();
        self.stack(bracket).push(start);
        Ok(after)
    }

    fn close<'a>(&mut self, bracket: Bracket, factor: f64, after: &'a str) -> &'a str {
        let start = self.stack(bracket).pop().unwrap_or(self.pieces.len());
        for piece in self.pieces.iter_mut().skip(start) {
            if let Piece::Text { weight, .. } = piece {
                *weight *= factor;
            }
        }
        after
    }

    fn text(&mut self, text: &str) {
        self.pieces.push(Piece::Text { text: text.to_owned(), weight: 1.0 });
    }

    /// Text that may hold breaks; the spaces around one belong to it.
    fn words(&mut self, words: &str) {
        let mut rest = words;
        while let Some((before, after)) = split_at_break(rest) {
            self.text(before.trim_end());
            self.pieces.push(Piece::Break);
            rest = after.trim_start();
        }
        self.text(rest);
    }

    fn finish(mut self) -> Result<Vec<Piece>> {
        while self.is_open(Bracket::Round) {
            self.close(Bracket::Round, STEP, "");
        }
        while self.is_open(Bracket::Square) {
            self.close(Bracket::Square, 1.0 / STEP, "");
        }
        let mut merged: Vec<Piece> = Vec::new();
        for piece in self.pieces {
            match (merged.last_mut(), piece) {
                (Some(Piece::Text { text, weight }), Piece::Text { text: more, weight: same }) if *weight == same => {
                    text.push_str(&more);
                }
                (_, piece) => merged.push(piece),
            }
        }
        let fits = |piece: &Piece| matches!(piece, Piece::Text { weight, .. } if weight.abs() <= HEAVIEST);
        match merged.iter().find(|piece| **piece != Piece::Break && !fits(piece)) {
            Some(Piece::Text { weight, .. }) => {
                Err(Error::Invalid(format!("the prompt has the weight {weight}, beyond ±{HEAVIEST}")))
            }
            _ => Ok(merged),
        }
    }
}

/// A number and the bracket that it closes, and what is behind them.
fn closing_weight(text: &str) -> Option<(f64, &str)> {
    let (number, after) = text.split_once(')')?;
    let number = number.trim();
    let plain = number.bytes().all(|byte| byte.is_ascii_digit() || b"+-.".contains(&byte));
    Some((number.parse().ok().filter(|_| plain)?, after))
}

/// What is before and after the first [`BREAK`] that is a word of its own.
fn split_at_break(text: &str) -> Option<(&str, &str)> {
    let in_word = |neighbour: Option<char>| neighbour.is_some_and(|c| c.is_alphanumeric() || c == '_');
    text.match_indices(BREAK)
        .map(|(at, found)| (&text[..at], &text[at + found.len()..]))
        .find(|(before, after)| !in_word(before.chars().next_back()) && !in_word(after.chars().next()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pieces as `weight text`, with weights to two digits and breaks as `|`.
    fn read(prompt: &str) -> Vec<String> {
        let piece = |piece| match piece {
            Piece::Text { text, weight } => format!("{weight:.2} {text}"),
            Piece::Break => "|".to_owned(),
        };
        parse(prompt).unwrap().into_iter().map(piece).collect()
    }

    #[test]
    fn brackets_weigh_and_nest() {
        assert_eq!(read("a (red) fox"), ["1.00 a ", "1.10 red", "1.00  fox"]);
        assert_eq!(read("((red)) [fox]"), ["1.21 red", "1.00  ", "0.91 fox"]);
        assert_eq!(read("(a (red:1.5) fox:0.5)"), ["0.50 a ", "0.75 red", "0.50  fox"]);
        assert_eq!(read("(red: -.5 )"), ["-0.50 red"]);
        assert_eq!(read("[(red)]"), ["1.00 red"]);
    }

    #[test]
    fn what_is_no_sign_is_text() {
        assert_eq!(read("a fox: red, 3:4"), ["1.00 a fox: red, 3:4"]);
        assert_eq!(read(r"a \(red\) \[fox\] \\ \x"), [r"1.00 a (red) [fox] \ x"]);
        assert_eq!(read("a) fox]"), ["1.00 a) fox]"]);
        assert_eq!(read("fox:1.3)"), ["1.00 fox:1.3)"]);
        assert_eq!(read("(fox:1.2.3)"), ["1.10 fox:1.2.3"]);
        assert_eq!(read("(fox:inf)"), ["1.10 fox:inf"]);
        assert_eq!(read("[fox:2]"), ["0.91 fox:2"]);
        assert_eq!(read(""), [""; 0]);
    }

    #[test]
    fn an_open_bracket_reaches_to_the_end() {
        assert_eq!(read("a (red [fox"), ["1.00 a ", "1.10 red ", "1.00 fox"]);
        assert_eq!(read("(a [b) c]"), ["1.10 a ", "1.00 b", "0.91  c"]);
    }

    #[test]
    fn a_break_is_a_word_of_its_own() {
        assert_eq!(read("a fox  BREAK  snow"), ["1.00 a fox", "|", "1.00 snow"]);
        assert_eq!(read("(a BREAK b:2)BREAK,"), ["2.00 a", "|", "2.00 b", "1.00 ", "|", "1.00 ,"]);
        assert_eq!(read("BREAKFAST, breakBREAK, break"), ["1.00 BREAKFAST, breakBREAK, break"]);
    }

    #[test]
    fn limits_are_said() {
        let deep = |depth| format!("{}a", "(".repeat(depth));
        assert!(parse(&deep(DEEPEST)).is_ok());
        assert!(parse(&deep(DEEPEST + 1)).unwrap_err().to_string().contains("brackets"));
        for weight in ["101", "-101", &"9".repeat(400)] {
            assert!(parse(&format!("(a:{weight})")).unwrap_err().to_string().contains("weight"));
        }
        assert!(parse(&format!("((a:{}):0)", "9".repeat(400))).is_err(), "infinity times nothing");
    }
}
