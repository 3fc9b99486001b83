//! `/logs/`: the files below /var/log of the node, folders as lists of links. No link of the file system leads out of it.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Frame;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use super::request::decode;
use super::{Answer, text};

const ROOT: &str = "/var/log";
const CHUNK_BYTES: usize = 64 << 10;

/// `path` is the request's, with `/logs` at its beginning.
pub(super) fn show(path: &str) -> Answer {
    // A plus sign stands for itself in a path.
    let inside = decode(&path.trim_start_matches("/logs").replace('+', "%2B"));
    match open(Path::new(ROOT), inside.trim_matches('/')) {
        Ok(file) if file.metadata().is_ok_and(|found| found.is_dir()) => match path.ends_with('/') {
            true => list(&file),
            false => moved(path),
        },
        Ok(file) => content(file),
        Err(rustix::io::Errno::NOENT) => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        Err(_) => text(StatusCode::FORBIDDEN, "403 Forbidden\n"),
    }
}

fn open(root: &Path, inside: &str) -> rustix::io::Result<File> {
    let root = rustix::fs::open(root, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let inside = if inside.is_empty() { "." } else { inside };
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(File::from(openat2(&root, inside, flags, Mode::empty(), beneath)?))
}

fn moved(path: &str) -> Answer {
    let name = path.rsplit('/').next().unwrap_or_default();
    let mut answer = Response::new(Empty::new().boxed_unsync());
    *answer.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(value) = HeaderValue::from_str(&format!("{name}/")) {
        answer.headers_mut().insert(header::LOCATION, value);
    }
    answer
}

fn list(folder: &File) -> Answer {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name != "." && name != ".." {
            let is_dir = entry.file_type().is_dir();
            names.push(if is_dir { format!("{name}/") } else { name });
        }
    }
    names.sort();
    let mut page = "<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n".to_owned();
    for name in names {
        page.push_str(&format!("<a href=\"{}\">{}</a>\n", link(&name), escaped(&name)));
    }
    page.push_str("</pre>\n");
    let mut answer = Response::new(Full::new(Bytes::from(page)).boxed_unsync());
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, html);
    answer
}

/// A relative link: a name with a colon would be taken for a scheme otherwise.
fn link(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    let encoded = name.bytes().map(|byte| if plain(byte) { char::from(byte).into() } else { format!("%{byte:02X}") });
    encoded.collect()
}

fn escaped(name: &str) -> String {
    name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;").replace('\'', "&#39;")
}

fn content(file: File) -> Answer {
    let parts = futures_util::stream::unfold(file, |mut file| async move {
        let mut chunk = vec![0; CHUNK_BYTES];
        let size = file.read(&mut chunk).ok().filter(|size| *size > 0)?;
        chunk.truncate(size);
        Some((Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from(chunk))), file))
    });
    let mut answer = Response::new(BodyExt::boxed_unsync(StreamBody::new(parts)));
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, plain);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_outside_is_shown_and_names_are_written_as_links() {
        let root = std::env::temp_dir().join(format!("coracle-node-logs-{}", std::process::id()));
        std::fs::create_dir_all(root.join("pods")).unwrap();
        std::fs::write(root.join("a b.log"), "line").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", root.join("link")).unwrap();
        let outside = ["link", "../etc/passwd", "pods/../../x"];
        assert!(outside.into_iter().all(|path| open(&root, path).is_err()));
        assert!(open(&root, "").unwrap().metadata().unwrap().is_dir());
        let mut text = String::new();
        open(&root, "a b.log").unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "line");
        assert_eq!((link("a b:c/").as_str(), escaped("<&>").as_str()), ("a%20b%3Ac/", "&lt;&amp;&gt;"));
        std::fs::remove_dir_all(root).unwrap();
    }
}
