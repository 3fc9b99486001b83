//! Links of a page that is shown through the `proxy` subresources: those that begin at the other end's root are led
//! through the proxy again. Works on a stream, tag by tag, and touches nothing but the links. Source: Kubernetes
//! `apimachinery/pkg/util/proxy/transport.go`.

use bytes::Bytes;
use coracle_client::{Body, BodyError};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};

/// A tag that is longer is no tag.
const TAG_BYTES_MAX: usize = 64 << 10;

/// The attributes that hold one link, by element.
const LINKS: &[(&str, &[&str])] = &[
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["formaction", "src", "usemap"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// Where links lead and where they are to lead.
#[derive(Clone, Debug)]
pub struct Links {
    /// The other end, `host:port`.
    pub source: String,
    /// This server as the client calls it.
    pub scheme: &'static str,
    pub host: String,
    /// The path of the proxy, up to where the other end's own begins.
    pub prefix: String,
}

impl Links {
    /// The link through the proxy; `None` where it stays as it is: it leads elsewhere, or from where it stands.
    pub fn rewritten(&self, link: &str) -> Option<String> {
        let (authority, path) = match link.split_once("://") {
            Some((scheme, rest)) if !scheme.is_empty() && scheme.chars().all(char::is_alphanumeric) => {
                let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
                (Some(&rest[..end]), &rest[end..])
            }
            _ => match link.strip_prefix("//") {
                Some(rest) => {
                    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
                    (Some(&rest[..end]), &rest[end..])
                }
                None => (None, link),
            },
        };
        let is_elsewhere = authority.is_some_and(|host| host != self.source && host != self.host);
        if is_elsewhere || !path.starts_with('/') {
            return None;
        }
        let path = match path.starts_with(&self.prefix) {
            true => path.to_owned(),
            false => format!("{}{path}", self.prefix.trim_end_matches('/')),
        };
        Some(match authority {
            Some(_) => format!("{}://{}{path}", self.scheme, self.host),
            None => path,
        })
    }

    /// The page with its links led through the proxy.
    pub fn rewrite(self, body: Body) -> Body {
        use futures_util::StreamExt;
        let page = Page { links: self, held: Vec::new(), raw: None };
        let parts = futures_util::stream::unfold((body, Some(page)), |(mut body, page)| async move {
            let mut page = page?;
            match body.frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => Some((Ok(Frame::data(Bytes::from(page.take(&data)))), (body, Some(page)))),
                    Err(other) => Some((Ok(other), (body, Some(page)))),
                },
                Some(Err(error)) => Some((Err(error), (body, None))),
                None => Some((Ok(Frame::data(Bytes::from(page.held))), (body, None))),
            }
        });
        let parts = parts.filter(|part: &Result<Frame<Bytes>, BodyError>| {
            let is_empty = part.as_ref().is_ok_and(|frame| frame.data_ref().is_some_and(Bytes::is_empty));
            std::future::ready(!is_empty)
        });
        StreamBody::new(parts).boxed_unsync()
    }
}

/// A page on its way through.
struct Page {
    links: Links,
    /// What may be the beginning of a tag.
    held: Vec<u8>,
    /// What ends a text that only looks like tags: `</script`, `</style`, `-->`.
    raw: Option<&'static [u8]>,
}

impl Page {
    fn take(&mut self, data: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(data);
        let held = std::mem::take(&mut self.held);
        let mut out = Vec::with_capacity(held.len() + self.links.prefix.len());
        let mut rest = held.as_slice();
        while !rest.is_empty() {
            let used = match self.raw {
                Some(end) => self.pass_raw(rest, end, &mut out),
                None => self.pass(rest, &mut out),
            };
            if used == 0 {
                break;
            }
            rest = &rest[used..];
        }
        self.held = rest.to_vec();
        if self.held.len() > TAG_BYTES_MAX {
            out.append(&mut self.held);
        }
        out
    }

    /// Up to the end of a text without tags; the last bytes may be a part of what ends it.
    fn pass_raw(&mut self, rest: &[u8], end: &'static [u8], out: &mut Vec<u8>) -> usize {
        let found = rest.windows(end.len()).position(|window| window.eq_ignore_ascii_case(end));
        let used = match found {
            Some(place) => {
                self.raw = None;
                place + end.len()
            }
            None => rest.len().saturating_sub(end.len() - 1),
        };
        out.extend_from_slice(&rest[..used]);
        used
    }

    /// Up to the next tag, or through it; nothing where its end is not there yet.
    fn pass(&mut self, rest: &[u8], out: &mut Vec<u8>) -> usize {
        let Some(start) = rest.iter().position(|byte| *byte == b'<') else {
            out.extend_from_slice(rest);
            return rest.len();
        };
        if start > 0 {
            out.extend_from_slice(&rest[..start]);
            return start;
        }
        if rest.starts_with(b"<!--") {
            self.raw = Some(b"-->");
            out.extend_from_slice(b"<!--");
            return 4;
        }
        if rest.len() < 4 {
            return 0;
        }
        if !rest[1].is_ascii_alphabetic() {
            out.push(b'<');
            return 1;
        }
        let Some(end) = tag_end(rest) else { return 0 };
        let tag = &rest[..end];
        let name_end = tag[1..].iter().position(|byte| !byte.is_ascii_alphanumeric()).map_or(end, |place| place + 1);
        let name = String::from_utf8_lossy(&tag[1..name_end]).to_ascii_lowercase();
        self.raw = match name.as_str() {
            "script" => Some(b"</script"),
            "style" => Some(b"</style"),
            _ => None,
        };
        match LINKS.iter().find(|(element, _)| *element == name) {
            Some((_, attributes)) => self.rewrite_tag(tag, name_end, attributes, out),
            None => out.extend_from_slice(tag),
        }
        end
    }

    fn rewrite_tag(&self, tag: &[u8], from: usize, attributes: &[&str], out: &mut Vec<u8>) {
        out.extend_from_slice(&tag[..from]);
        let mut place = from;
        while place < tag.len() {
            let Some((name, value)) = next_attribute(tag, place) else { break };
            let is_link = attributes.iter().any(|wanted| tag[name.clone()].eq_ignore_ascii_case(wanted.as_bytes()));
            let link = std::str::from_utf8(&tag[value.clone()]).ok().filter(|_| is_link);
            out.extend_from_slice(&tag[place..value.start]);
            match link.and_then(|link| self.links.rewritten(link)) {
                Some(link) => out.extend_from_slice(link.as_bytes()),
                None => out.extend_from_slice(&tag[value.clone()]),
            }
            place = value.end;
        }
        out.extend_from_slice(&tag[place..]);
    }
}

/// Past the `>` that ends the tag: none inside of quotes.
fn tag_end(tag: &[u8]) -> Option<usize> {
    let mut quote = None;
    for (place, byte) in tag.iter().enumerate() {
        match (quote, *byte) {
            (None, b'>') => return Some(place + 1),
            (None, b'"' | b'\'') => quote = Some(*byte),
            (Some(open), byte) if open == byte => quote = None,
            _ => {}
        }
    }
    None
}

type Span = std::ops::Range<usize>;

/// Where the next attribute's name and value lie, at or after a place in a tag; without a value the span is empty.
fn next_attribute(tag: &[u8], from: usize) -> Option<(Span, Span)> {
    let skip = |from: usize, stop: fn(u8) -> bool| {
        tag[from..].iter().position(|byte| stop(*byte)).map_or(tag.len(), |place| from + place)
    };
    let start = skip(from, |byte| !byte.is_ascii_whitespace() && byte != b'/');
    if start >= tag.len() || tag[start] == b'>' {
        return None;
    }
    let end = skip(start, |byte| byte.is_ascii_whitespace() || matches!(byte, b'=' | b'>' | b'/')).max(start + 1);
    let equals = skip(end, |byte| !byte.is_ascii_whitespace());
    if tag.get(equals) != Some(&b'=') {
        return Some((start..end, end..end));
    }
    let value = skip(equals + 1, |byte| !byte.is_ascii_whitespace());
    // The quote after a value is then met as a name without a value, and left as it is.
    let value = match tag.get(value) {
        Some(b'"') => value + 1..skip(value + 1, |byte| byte == b'"'),
        Some(b'\'') => value + 1..skip(value + 1, |byte| byte == b'\''),
        _ => value..skip(value, |byte| byte.is_ascii_whitespace() || byte == b'>'),
    };
    Some((start..end, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> Page {
        let links = Links {
            source: "10.0.0.1:80".into(),
            scheme: "https",
            host: "api:6443".into(),
            prefix: "/api/v1/namespaces/a/pods/b/proxy".into(),
        };
        Page { links, held: Vec::new(), raw: None }
    }

    fn rewritten(parts: &[&str]) -> String {
        let mut page = page();
        let mut out: Vec<u8> = parts.iter().flat_map(|part| page.take(part.as_bytes())).collect();
        out.append(&mut page.held);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn links_from_the_root_are_led_through_the_proxy() {
        const P: &str = "/api/v1/namespaces/a/pods/b/proxy";
        let cases = [
            ("<a href=\"/x\">test</a>".to_owned(), format!("<a href=\"{P}/x\">test</a>")),
            ("<a  id='1' href='/x?y=1#z' b>".into(), format!("<a  id='1' href='{P}/x?y=1#z' b>")),
            ("<img src=/x alt=\"a > b\"><p>1 < 2</p>".into(), format!("<img src={P}/x alt=\"a > b\"><p>1 < 2</p>")),
            ("<a href=\"x\"><a href=\"http://else/x\">".into(), "<a href=\"x\"><a href=\"http://else/x\">".into()),
            ("<a href=\"http://10.0.0.1:80/x\">".into(), format!("<a href=\"https://api:6443{P}/x\">")),
            (format!("<a href=\"{P}/x\">"), format!("<a href=\"{P}/x\">")),
            ("<!-- <a href=\"/x\"> --><p href=\"/x\">".into(), "<!-- <a href=\"/x\"> --><p href=\"/x\">".into()),
            (
                "<script src=\"/s\">'<a href=\"/x\">'</script><a href=/>".into(),
                format!("<script src=\"{P}/s\">'<a href=\"/x\">'</script><a href={P}/>"),
            ),
        ];
        for (given, wanted) in cases {
            assert_eq!(rewritten(&[&given]), wanted);
            let bytewise: Vec<String> = given.chars().map(String::from).collect();
            assert_eq!(rewritten(&bytewise.iter().map(String::as_str).collect::<Vec<_>>()), wanted, "byte by byte");
        }
    }
}
