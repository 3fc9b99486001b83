//! The words of a label selector. Source: Kubernetes `apimachinery/pkg/labels`.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    Error,
    End,
    Close,
    Comma,
    Not,
    DoubleEquals,
    Equals,
    Greater,
    Identifier,
    In,
    Less,
    NotEquals,
    NotIn,
    Open,
}

const SPECIAL: &[char] = &['=', '!', '(', ')', ',', '>', '<'];
const SPACE: &[char] = &[' ', '\t', '\r', '\n'];

/// All words in order, `End` last.
pub fn scan(text: &str) -> Vec<(Token, String)> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start_matches(SPACE);
    while let Some(first) = rest.chars().next() {
        let (token, literal, length) = if SPECIAL.contains(&first) { special(rest) } else { word(rest) };
        tokens.push((token, literal));
        rest = rest[length..].trim_start_matches(SPACE);
    }
    tokens.push((Token::End, String::new()));
    tokens
}

fn word(text: &str) -> (Token, String, usize) {
    let end = text.find(|letter| SPECIAL.contains(&letter) || SPACE.contains(&letter)).unwrap_or(text.len());
    let token = match &text[..end] {
        "in" => Token::In,
        "notin" => Token::NotIn,
        _ => Token::Identifier,
    };
    (token, text[..end].to_owned(), end)
}

fn special(text: &str) -> (Token, String, usize) {
    let known = [("==", Token::DoubleEquals), ("!=", Token::NotEquals), (")", Token::Close), (",", Token::Comma)];
    let single =
        [("!", Token::Not), ("=", Token::Equals), (">", Token::Greater), ("<", Token::Less), ("(", Token::Open)];
    match known.into_iter().chain(single).find(|(literal, _)| text.starts_with(literal)) {
        Some((literal, token)) => (token, literal.to_owned(), literal.len()),
        None => (Token::Error, String::new(), text.len()),
    }
}
