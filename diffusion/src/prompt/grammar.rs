//! Parses a prompt into pieces of text with one weight each. Every text is a valid prompt; only the limits can reject
//! it.

use super::{DEEPEST, HEAVIEST};
use crate::{Error, Result};

/// The factor of a round bracket without a number; a square bracket divides by it.
const STEP: f64 = 1.1;
/// Starts a new chunk of the text encoder, if it is a separate word.
const BREAK: &str = "BREAK";

/// A part of a prompt.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// Words, with brackets and escapes resolved, and their weight; 1 is neutral.
    Text { text: String, weight: f64 },
    /// The following text starts a new chunk.
    Break,
}

/// Parses weights: `(words)` multiplies the surrounding weight by 1.1, `(words:1.3)` multiplies it by 1.3, and
/// `[words]` divides it by 1.1. Brackets nest. `\(`, `\)`, `\[`, `\]` and `\\` are literal characters. An unclosed
/// bracket extends to the end, and an unmatched closing bracket is text. Neighbours of equal weight are merged, so a
/// prompt without any of these characters is a single piece.
///
/// # Errors
/// Rejects brackets nested deeper than [`DEEPEST`] and weights beyond [`HEAVIEST`].
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
                // A bracket without meaning here is text, as is everything up to the next one.
                let words = sign.len() + after.find([':', '\\', '(', ')', '[', ']']).unwrap_or(after.len());
                let (words, after) = rest.split_at(words);
                reading.words(words);
                after
            }
        };
    }
    reading.finish()
}

/// The characters that a backslash escapes, one byte each.
const SIGNS: [char; 5] = ['(', ')', '[', ']', '\\'];

#[derive(Debug, Clone, Copy)]
enum Bracket {
    Round,
    Square,
}

/// The pieces so far, and the index of the first piece in each open bracket.
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

    /// Opens a bracket. Returns `after`, the rest of the text, as [`Self::close`] does.
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

    /// Adds text that may contain breaks. Spaces around a break belong to it.
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

/// A number and its closing bracket, and the text after them.
fn closing_weight(text: &str) -> Option<(f64, &str)> {
    let (number, after) = text.split_once(')')?;
    let number = number.trim();
    let plain = number.bytes().all(|byte| byte.is_ascii_digit() || b"+-.".contains(&byte));
    Some((number.parse().ok().filter(|_| plain)?, after))
}

/// The text before and after the first [`BREAK`] that is a separate word.
fn split_at_break(text: &str) -> Option<(&str, &str)> {
    let in_word = |neighbour: Option<char>| neighbour.is_some_and(|c| c.is_alphanumeric() || c == '_');
    text.match_indices(BREAK)
        .map(|(at, found)| (&text[..at], &text[at + found.len()..]))
        .find(|(before, after)| !in_word(before.chars().next_back()) && !in_word(after.chars().next()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pieces as `weight text`, with two-digit weights and breaks as `|`.
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
    fn limits_are_named() {
        let deep = |depth| format!("{}a", "(".repeat(depth));
        assert!(parse(&deep(DEEPEST)).is_ok());
        assert!(parse(&deep(DEEPEST + 1)).unwrap_err().to_string().contains("brackets"));
        for weight in ["101", "-101", &"9".repeat(400)] {
            assert!(parse(&format!("(a:{weight})")).unwrap_err().to_string().contains("weight"));
        }
        assert!(parse(&format!("((a:{}):0)", "9".repeat(400))).is_err(), "infinity times nothing");
    }
}
