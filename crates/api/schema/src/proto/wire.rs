//! Protobuf's encoding below any message: varints, lengths, field numbers.

use crate::json::ReadError;

/// One field's value as it stands in the bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Item<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

/// Reads the fields of one message.
pub struct Wire<'a> {
    bytes: &'a [u8],
}

impl<'a> Wire<'a> {
    pub fn new(bytes: &'a [u8]) -> Wire<'a> {
        Wire { bytes }
    }

    /// The next field's number and value; `None` at the end.
    pub fn next(&mut self) -> Result<Option<(u32, Item<'a>)>, ReadError> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).map_err(|_| ReadError::Proto("field number out of range"))?;
        let item = match key & 7 {
            0 => Item::Varint(self.varint()?),
            1 => Item::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| ReadError::Proto("length out of range"))?;
                Item::Bytes(self.take(length)?)
            }
            5 => Item::Fixed32(u32::from_le_bytes(self.array()?)),
            _ => return Err(ReadError::Proto("illegal wire type")),
        };
        if number == 0 {
            return Err(ReadError::Proto("illegal field number 0"));
        }
        Ok(Some((number, item)))
    }

    /// Whether packed elements are left.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn varint(&mut self) -> Result<u64, ReadError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(ReadError::Proto("varint overflows 64 bits"))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ReadError> {
        let taken = self.take(N)?;
        taken.try_into().map_err(|_| ReadError::Proto("unexpected EOF"))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], ReadError> {
        let (taken, rest) = self.bytes.split_at_checked(length).ok_or(ReadError::Proto("unexpected EOF"))?;
        self.bytes = rest;
        Ok(taken)
    }
}

pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub fn put_number(out: &mut Vec<u8>, tag: u32, value: u64) {
    put_varint(out, u64::from(tag) << 3);
    put_varint(out, value);
}

pub fn put_double(out: &mut Vec<u8>, tag: u32, value: f64) {
    put_varint(out, u64::from(tag) << 3 | 1);
    out.extend_from_slice(&value.to_le_bytes());
}

pub fn put_bytes(out: &mut Vec<u8>, tag: u32, bytes: &[u8]) {
    put_varint(out, u64::from(tag) << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}
