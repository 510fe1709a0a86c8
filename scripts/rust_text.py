"""Splits Rust source into its code and its prose (comments and strings), for the checks beside this file."""

import re

# Prose, and whole words: an `r` at the end of a word begins no raw string, and a quote after one no character.
TOKEN = re.compile(
    r"""
    (?P<comment> //[^\n]* | /\*.*?\*/ )
  | (?: br|cr|r )(?P<hashes> \#* )"(?P<raw> .*? )"(?P=hashes)
  | [bc]?"(?P<string> (?: \\. | [^"\\] )* )"
  | (?P<character> b?'(?: \\(?: u\{[^}]*\} | x.. | . ) | [^\\'] )' )
  | \w+
    """,
    re.DOTALL | re.VERBOSE,
)


def split(source):
    """Code and prose, each as long as the source and with its line breaks; text of the other kind is blanked."""
    spans = []
    for match in TOKEN.finditer(source):
        for group in ("comment", "raw", "string", "character"):
            if match.group(group):
                spans.append(match.span(group))
    code, prose, done = [], [], 0
    for start, end in spans:
        code += [source[done:start], blank(source[start:end])]
        prose += [blank(source[done:start]), source[start:end]]
        done = end
    return "".join(code) + source[done:], "".join(prose) + blank(source[done:])


def blank(text):
    return re.sub(r"[^\n]", " ", text)
