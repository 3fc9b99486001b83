//! Netlink messages as bytes: an envelope, a fixed header, attributes that may nest. It knows no protocol above that;
//! it exists because both the pod network and the packet filter speak it.

/// `NLM_F_*` of linux/netlink.h.
pub mod flag {
    pub const REQUEST: u16 = 0x1;
    pub const ACK: u16 = 0x4;
    pub const DUMP: u16 = 0x300;
    pub const REPLACE: u16 = 0x100;
    pub const EXCL: u16 = 0x200;
    pub const CREATE: u16 = 0x400;
    pub const APPEND: u16 = 0x800;
}

const NESTED: u16 = 0x8000;
/// The lengths of attributes are 16 bits wide.
pub const ATTRIBUTE_BYTES_MAX: usize = 0xffff;

/// Builds messages one behind another, numbered from 1.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
    sequence: u32,
    last: usize,
}

impl Writer {
    pub fn new() -> Writer {
        Writer::default()
    }

    /// Appends a message; `body` adds its attributes.
    pub fn message(&mut self, kind: u16, flags: u16, header: &[u8], body: impl FnOnce(&mut Writer)) -> &mut Writer {
        self.sequence += 1;
        let start = self.bytes.len();
        self.last = start;
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | flag::REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&self.sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(header);
        self.pad();
        body(self);
        let length = (self.bytes.len() - start) as u32;
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        self
    }

    /// Asks for an acknowledgement of the message added last.
    pub fn acknowledge_last(&mut self) {
        if let Some(low) = self.bytes.get_mut(self.last + 6..self.last + 8) {
            let flags = u16::from_ne_bytes([low[0], low[1]]) | flag::ACK;
            low.copy_from_slice(&flags.to_ne_bytes());
        }
    }

    pub fn put(&mut self, kind: u16, value: &[u8]) -> &mut Writer {
        debug_assert!(value.len() + 4 <= ATTRIBUTE_BYTES_MAX, "attribute {kind} is too long");
        self.bytes.extend_from_slice(&((value.len() + 4) as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
        self
    }

    /// In the machine's byte order, as rtnetlink has it.
    pub fn put_u32(&mut self, kind: u16, value: u32) -> &mut Writer {
        self.put(kind, &value.to_ne_bytes())
    }

    /// In network byte order, as nftables has it.
    pub fn put_be32(&mut self, kind: u16, value: u32) -> &mut Writer {
        self.put(kind, &value.to_be_bytes())
    }

    /// With the closing zero byte that the kernel wants.
    pub fn put_text(&mut self, kind: u16, text: &str) -> &mut Writer {
        let mut value = text.as_bytes().to_vec();
        value.push(0);
        self.put(kind, &value)
    }

    pub fn nest(&mut self, kind: u16, body: impl FnOnce(&mut Writer)) -> &mut Writer {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        body(self);
        let length = self.bytes.len() - start;
        debug_assert!(length <= ATTRIBUTE_BYTES_MAX, "attribute {kind} is too long");
        self.bytes[start..start + 2].copy_from_slice(&(length as u16).to_ne_bytes());
        self
    }

    /// Bytes that are no attribute, for headers inside attributes.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Writer {
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    pub fn sequence(&self) -> u32 {
        self.sequence
    }

    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// The attributes behind a fixed header of an answer: number and value.
pub fn attributes(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    while bytes.len() >= 4 {
        let length = (u16::from_ne_bytes([bytes[0], bytes[1]]) as usize).clamp(4, bytes.len());
        let kind = u16::from_ne_bytes([bytes[2], bytes[3]]) & 0x3fff;
        found.push((kind, &bytes[4..length]));
        bytes = &bytes[length.next_multiple_of(4).min(bytes.len())..];
    }
    found
}

/// The value of the first attribute of that number.
pub fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).into_iter().find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// A text attribute without its closing zero.
pub fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let mut writer = Writer::new();
        writer.message(7, flag::ACK, &[1, 2, 3, 4], |body| {
            body.put_text(3, "br0").nest(5, |inner| {
                inner.put_be32(1, 9);
            });
        });
        let bytes = writer.finish();
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(bytes[0] as usize, bytes.len());
        let body = &bytes[20..];
        assert_eq!(text(attribute(body, 3).unwrap()), "br0");
        assert_eq!(attribute(attribute(body, 5).unwrap(), 1), Some(&[0, 0, 0, 9][..]));
    }

    #[test]
    fn cut_answers_do_not_panic() {
        assert_eq!(attributes(&[200, 0, 1, 0, 9]), [(1, &[9][..])]);
        assert_eq!(attributes(&[0, 0, 0]), []);
    }
}
