//! JSON as tokens, with the error texts of Go's scanner, because clients see them. It knows nothing of types; it exists
//! because serde_json neither words its errors so nor lets numbers and duplicate members through untouched.

use std::borrow::Cow;

/// How deep lists and maps may be nested. Go allows 10,000; no type of Kubernetes needs a tenth of ours, and every walk
/// of a tree is recursive.
pub const DEPTH_MAX: usize = 512;

/// Why the text is not JSON, in Go's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SyntaxError(pub String);

/// What a value begins as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    Map,
    List,
    String,
    Number,
    True,
    False,
    Null,
}

pub struct Scanner<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

type Scan<T> = Result<T, SyntaxError>;

impl<'a> Scanner<'a> {
    pub fn new(text: &'a str) -> Scanner<'a> {
        Scanner { text, at: 0, depth: 0 }
    }

    /// What comes next, which stays to be read.
    pub fn start(&mut self) -> Scan<Start> {
        Ok(match self.peek()? {
            b'{' => Start::Map,
            b'[' => Start::List,
            b'"' => Start::String,
            b'-' | b'0'..=b'9' => Start::Number,
            b't' => Start::True,
            b'f' => Start::False,
            b'n' => Start::Null,
            _ => return Err(self.invalid("looking for beginning of value")),
        })
    }

    /// Steps into a map or list; [`Scanner::next_key`] or [`Scanner::next_element`] step out of it.
    pub fn open(&mut self) -> Scan<()> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(SyntaxError("exceeded max depth".into()));
        }
        self.at += 1;
        Ok(())
    }

    /// The next member's name, the scanner then standing before its value; `None` past the map's end. `first` starts as
    /// true.
    pub fn next_key(&mut self, first: &mut bool) -> Scan<Option<Cow<'a, str>>> {
        if !self.next_item(first, b'}', "after object key:value pair")? {
            return Ok(None);
        }
        if self.peek()? != b'"' {
            return Err(self.invalid("looking for beginning of object key string"));
        }
        let key = self.string()?;
        if self.peek()? != b':' {
            return Err(self.invalid("after object key"));
        }
        self.at += 1;
        Ok(Some(key))
    }

    /// Whether another element follows, the scanner then standing before it.
    pub fn next_element(&mut self, first: &mut bool) -> Scan<bool> {
        self.next_item(first, b']', "after array element")
    }

    fn next_item(&mut self, first: &mut bool, end: u8, context: &str) -> Scan<bool> {
        let next = self.peek()?;
        if next == end {
            self.at += 1;
            self.depth -= 1;
            return Ok(false);
        }
        if !std::mem::take(first) {
            if next != b',' {
                return Err(self.invalid(context));
            }
            self.at += 1;
        }
        Ok(true)
    }

    pub fn string(&mut self) -> Scan<Cow<'a, str>> {
        self.at += 1;
        let from = self.at;
        let bytes = self.text.as_bytes();
        while let Some(byte) = bytes.get(self.at) {
            match byte {
                b'"' => {
                    self.at += 1;
                    return Ok(Cow::Borrowed(&self.text[from..self.at - 1]));
                }
                b'\\' => return self.escaped(from).map(Cow::Owned),
                0..0x20 => return Err(self.invalid("in string literal")),
                _ => self.at += 1,
            }
        }
        Err(end_of_input())
    }

    /// The rest of a string whose first escape was met.
    fn escaped(&mut self, from: usize) -> Scan<String> {
        let mut out = self.text[from..self.at].to_owned();
        loop {
            let plain = self.at;
            while self.text.as_bytes().get(self.at).is_some_and(|byte| !matches!(byte, b'"' | b'\\' | 0..0x20)) {
                self.at += 1;
            }
            out.push_str(&self.text[plain..self.at]);
            match self.byte()? {
                b'"' => {
                    self.at += 1;
                    return Ok(out);
                }
                b'\\' => out.push(self.escape()?),
                _ => return Err(self.invalid("in string literal")),
            }
        }
    }

    fn escape(&mut self) -> Scan<char> {
        self.at += 1;
        let plain = match self.byte()? {
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            byte @ (b'"' | b'\\' | b'/') => byte.into(),
            b'u' => {
                self.at += 1;
                return self.unicode();
            }
            _ => return Err(self.invalid("in string escape code")),
        };
        self.at += 1;
        Ok(plain)
    }

    /// `\uXXXX`, with its second half where it is the first of a pair; a lone half becomes U+FFFD.
    fn unicode(&mut self) -> Scan<char> {
        let high = self.hex4()?;
        if (0xD800..0xDC00).contains(&high) && self.text[self.at..].starts_with("\\u") {
            let back = self.at;
            self.at += 2;
            let low = self.hex4()?;
            if (0xDC00..0xE000).contains(&low) {
                let code = 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
                return Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            self.at = back;
        }
        Ok(char::from_u32(high).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn hex4(&mut self) -> Scan<u32> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = char::from(self.byte()?).to_digit(16);
            code = code * 16 + digit.ok_or_else(|| self.invalid("in \\u hexadecimal character escape"))?;
            self.at += 1;
        }
        Ok(code)
    }

    /// A number's text, checked but not converted.
    pub fn number(&mut self) -> Scan<&'a str> {
        let from = self.at;
        if self.byte()? == b'-' {
            self.at += 1;
        }
        match self.byte()? {
            b'0' => self.at += 1,
            b'1'..=b'9' => self.digits(),
            _ => return Err(self.invalid("in numeric literal")),
        }
        if self.next_is(b".") {
            self.at += 1;
            self.some_digits("after decimal point in numeric literal")?;
        }
        if self.next_is(b"eE") {
            self.at += 1;
            if self.next_is(b"+-") {
                self.at += 1;
            }
            self.some_digits("in exponent of numeric literal")?;
        }
        Ok(&self.text[from..self.at])
    }

    fn some_digits(&mut self, context: &str) -> Scan<()> {
        if !self.byte()?.is_ascii_digit() {
            return Err(self.invalid(context));
        }
        self.digits();
        Ok(())
    }

    fn digits(&mut self) {
        while self.text.as_bytes().get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
    }

    fn next_is(&self, any: &[u8]) -> bool {
        self.text.as_bytes().get(self.at).is_some_and(|byte| any.contains(byte))
    }

    /// Reads `true`, `false` or `null`, one of which [`Scanner::start`] saw the beginning of.
    pub fn literal(&mut self, word: &str) -> Scan<()> {
        for expected in word.bytes() {
            if self.byte()? != expected {
                return Err(self.invalid(&format!("in literal {word} (expecting '{}')", char::from(expected))));
            }
            self.at += 1;
        }
        Ok(())
    }

    /// Reads past a value of whatever form.
    pub fn skip(&mut self) -> Scan<()> {
        let mut first = true;
        match self.start()? {
            Start::Map => {
                self.open()?;
                while self.next_key(&mut first)?.is_some() {
                    self.skip()?;
                }
            }
            Start::List => {
                self.open()?;
                while self.next_element(&mut first)? {
                    self.skip()?;
                }
            }
            Start::String => self.string().map(drop)?,
            Start::Number => self.number().map(drop)?,
            Start::True => self.literal("true")?,
            Start::False => self.literal("false")?,
            Start::Null => self.literal("null")?,
        }
        Ok(())
    }

    /// Nothing but space may follow.
    pub fn end(&mut self) -> Scan<()> {
        match self.peek() {
            Err(_) => Ok(()),
            Ok(_) => Err(self.invalid("after top-level value")),
        }
    }

    fn peek(&mut self) -> Scan<u8> {
        while self.next_is(b" \t\r\n") {
            self.at += 1;
        }
        self.byte()
    }

    fn byte(&self) -> Scan<u8> {
        self.text.as_bytes().get(self.at).copied().ok_or_else(end_of_input)
    }

    fn invalid(&self, context: &str) -> SyntaxError {
        let byte = self.text.as_bytes().get(self.at).copied().unwrap_or_default();
        let shown = match byte {
            b'\'' => "\\'".to_owned(),
            b'"' => "\"".to_owned(),
            b'\n' | b'\r' | b'\t' | b'\\' | 0x20..0x7f => char::from(byte).escape_default().to_string(),
            0..0x20 | 0x7f => format!("\\x{byte:02x}"),
            _ => char::from(byte).to_string(),
        };
        SyntaxError(format!("invalid character '{shown}' {context}"))
    }
}

fn end_of_input() -> SyntaxError {
    SyntaxError("unexpected end of JSON input".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        let mut scanner = Scanner::new(text);
        scanner.skip().and_then(|()| scanner.end()).unwrap_err().0
    }

    #[test]
    fn errors_read_as_go_words_them() {
        assert_eq!(error("{"), "unexpected end of JSON input");
        assert_eq!(error("hello"), "invalid character 'h' looking for beginning of value");
        assert_eq!(error("{a}"), "invalid character 'a' looking for beginning of object key string");
        assert_eq!(error(r#"{"a" 1}"#), "invalid character '1' after object key");
        assert_eq!(error(r#"{"a":1 "b"}"#), "invalid character '\"' after object key:value pair");
        assert_eq!(error("[1 2]"), "invalid character '2' after array element");
        assert_eq!(error("tru!"), "invalid character '!' in literal true (expecting 'e')");
        assert_eq!(error("1 2"), "invalid character '2' after top-level value");
        assert_eq!(error("\"a\nb\""), "invalid character '\\n' in string literal");
        assert_eq!(error("[1,]"), "invalid character ']' looking for beginning of value");
        assert_eq!(error(&"[".repeat(600)), "exceeded max depth");
    }

    #[test]
    fn escapes_are_resolved() {
        let mut scanner = Scanner::new(r#""a\n\"\u00e9\ud83d\ude00\ud800x""#);
        assert_eq!(scanner.string().unwrap(), "a\n\"é😀\u{fffd}x");
    }
}
