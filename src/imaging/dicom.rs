//! Rows, columns and frames of a DICOM file, from its first kilobytes.
//!
//! DICOM PS3.10 (file format) and PS3.5, section 7 (data elements). Written by hand, for three numbers are wanted from
//! a file that is cut somewhere: a library reads whole objects from whole files, and brings a dictionary of thousands of
//! elements along. Elements stand in ascending order of their tags, so the walk ends at Columns (0028,0011), long before
//! the pixels.
//!
//! Only elements of the data set itself count: a sequence may hold a whole image of its own (an icon, a reference), so
//! sequences are stepped over, by their length or item by item. What is out of order, of unknown type or nested too deeply
//! is no DICOM file to this module. Every step takes at least 8 bytes, so the work is bounded by the prefix.

use super::NoCount;

/// The preamble, which may hold anything, and `DICM`.
pub(super) const PREAMBLE_BYTES: usize = 132;

/// How deeply sequences of undefined length may be nested.
const MAX_DEPTH: usize = 16;

/// A length that is not told: the value ends with a delimiter.
const UNDEFINED: u32 = u32::MAX;

const TRANSFER_SYNTAX: Tag = Tag(0x0002, 0x0010);
const FRAMES: Tag = Tag(0x0028, 0x0008);
const ROWS: Tag = Tag(0x0028, 0x0010);
const COLUMNS: Tag = Tag(0x0028, 0x0011);
const ITEM: Tag = Tag(0xfffe, 0xe000);
const ITEM_END: Tag = Tag(0xfffe, 0xe00d);
const SEQUENCE_END: Tag = Tag(0xfffe, 0xe0dd);

/// Group and element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Tag(u16, u16);

/// How a data set is written (PS3.5, annex A).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Encoding {
    /// Whether each element names the type of its value.
    explicit: bool,
    big_endian: bool,
}

/// Implicit VR, little endian: also what is inside a UN element of undefined length (PS3.5, section 6.2.2).
const IMPLICIT: Encoding = Encoding {
    explicit: false,
    big_endian: false,
};

/// Explicit VR, little endian: also the file meta information, whatever the data set.
const EXPLICIT: Encoding = Encoding {
    explicit: true,
    big_endian: false,
};

/// Whether a file begins as DICOM files do.
pub(super) fn is_dicom(file: &[u8]) -> bool {
    file.get(128..PREAMBLE_BYTES) == Some(b"DICM")
}

/// Rows x Columns x NumberOfFrames of a file that [`is_dicom`].
pub(super) fn voxels(file: &[u8]) -> Result<u64, NoCount> {
    let mut reader = Reader {
        rest: file.get(PREAMBLE_BYTES..).ok_or(NoCount::Cut)?,
        encoding: EXPLICIT,
    };
    reader.encoding = reader.read_meta()?;
    reader.read_size()
}

/// An element's head; its value is next.
struct Element {
    tag: Tag,
    /// Its type; none where the encoding is implicit, and for items and delimiters.
    vr: Option<[u8; 2]>,
    length: u32,
}

/// What is left of a file.
struct Reader<'a> {
    rest: &'a [u8],
    encoding: Encoding,
}

impl<'a> Reader<'a> {
    /// Group 0002, to find how the data set is written. Its end is where another group begins: the group length in
    /// front of it is wrong in too many files.
    fn read_meta(&mut self) -> Result<Encoding, NoCount> {
        let mut encoding = None;
        loop {
            let group = self.rest.get(..2).ok_or(NoCount::Cut)?;
            if group != [2, 0] {
                return encoding.ok_or(NoCount::Unknown);
            }
            let element = self.element()?;
            let value = self.value(&element)?;
            if element.tag == TRANSFER_SYNTAX {
                encoding = Some(encoding_of(value).ok_or(NoCount::Unknown)?);
            }
        }
    }

    fn read_size(&mut self) -> Result<u64, NoCount> {
        let mut frames = 1;
        let mut rows = None;
        let mut last = Tag(0, 0);
        loop {
            let element = self.element()?;
            if element.tag <= last || element.tag > COLUMNS {
                return Err(NoCount::Unknown);
            }
            last = element.tag;
            match element.tag {
                FRAMES => frames = integer_string(self.typed(&element, *b"IS")?)?,
                ROWS => rows = Some(self.short(&element)?),
                COLUMNS => {
                    let columns = self.short(&element)?;
                    // At most 2^16 each.
                    let plane = rows.ok_or(NoCount::Unknown)? * columns;
                    return plane.checked_mul(frames).ok_or(NoCount::Unknown);
                }
                _ if element.length == UNDEFINED => self.skip_sequence(&element, 0)?,
                _ => drop(self.value(&element)?),
            }
        }
    }

    /// An element's head (PS3.5, section 7.1). Items and delimiters have no type in any encoding (section 7.5).
    fn element(&mut self) -> Result<Element, NoCount> {
        let tag = Tag(self.u16()?, self.u16()?);
        if !self.encoding.explicit || tag.0 == ITEM.0 {
            let length = self.u32()?;
            return Ok(Element { tag, vr: None, length });
        }
        let vr = [self.take(1)?[0], self.take(1)?[0]];
        let length = match &vr {
            b"OB" | b"OD" | b"OF" | b"OL" | b"OV" | b"OW" | b"SQ" | b"SV" | b"UC" | b"UN" | b"UR" | b"UT" | b"UV" => {
                self.take(2)?;
                self.u32()?
            }
            b"AE" | b"AS" | b"AT" | b"CS" | b"DA" | b"DS" | b"DT" | b"FD" | b"FL" | b"IS" | b"LO" | b"LT" | b"PN"
            | b"SH" | b"SL" | b"SS" | b"ST" | b"TM" | b"UI" | b"UL" | b"US" => u32::from(self.u16()?),
            _ => return Err(NoCount::Unknown),
        };
        Ok(Element {
            tag,
            vr: Some(vr),
            length,
        })
    }

    /// Steps over a value of undefined length, whose head was read: items up to the sequence's delimiter.
    fn skip_sequence(&mut self, of: &Element, depth: usize) -> Result<(), NoCount> {
        if depth >= MAX_DEPTH {
            return Err(NoCount::Unknown);
        }
        let outside = self.encoding;
        match of.vr {
            None | Some([b'S', b'Q']) => {}
            Some([b'U', b'N']) => self.encoding = IMPLICIT,
            // Pixels in fragments, which come after everything of interest.
            Some(_) => return Err(NoCount::Unknown),
        }
        loop {
            let item = self.element()?;
            match item.tag {
                SEQUENCE_END => break,
                ITEM if item.length == UNDEFINED => self.skip_item(depth)?,
                ITEM => drop(self.value(&item)?),
                _ => return Err(NoCount::Unknown),
            }
        }
        self.encoding = outside;
        Ok(())
    }

    /// Steps over the elements of an item of undefined length, up to the item's delimiter.
    fn skip_item(&mut self, depth: usize) -> Result<(), NoCount> {
        loop {
            let element = self.element()?;
            match element.tag {
                ITEM_END => return Ok(()),
                tag if tag.0 == ITEM.0 => return Err(NoCount::Unknown),
                _ if element.length == UNDEFINED => self.skip_sequence(&element, depth + 1)?,
                _ => drop(self.value(&element)?),
            }
        }
    }

    /// The value of an element that should have a certain type.
    fn typed(&mut self, element: &Element, vr: [u8; 2]) -> Result<&'a [u8], NoCount> {
        if element.vr.is_some_and(|named| named != vr) {
            return Err(NoCount::Unknown);
        }
        self.value(element)
    }

    /// The value of an element of one unsigned short.
    fn short(&mut self, element: &Element) -> Result<u64, NoCount> {
        if element.length != 2 || element.vr.is_some_and(|vr| vr != *b"US") {
            return Err(NoCount::Unknown);
        }
        self.u16().map(u64::from)
    }

    fn value(&mut self, element: &Element) -> Result<&'a [u8], NoCount> {
        if element.length == UNDEFINED {
            return Err(NoCount::Unknown);
        }
        self.take(usize::try_from(element.length).map_err(|_| NoCount::Unknown)?)
    }

    fn u16(&mut self) -> Result<u16, NoCount> {
        self.array().map(|bytes| match self.encoding.big_endian {
            true => u16::from_be_bytes(bytes),
            false => u16::from_le_bytes(bytes),
        })
    }

    fn u32(&mut self) -> Result<u32, NoCount> {
        self.array().map(|bytes| match self.encoding.big_endian {
            true => u32::from_be_bytes(bytes),
            false => u32::from_le_bytes(bytes),
        })
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], NoCount> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(NoCount::Cut)?;
        self.rest = rest;
        Ok(*bytes)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], NoCount> {
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(NoCount::Cut)?;
        self.rest = rest;
        Ok(bytes)
    }
}

/// How the data set of a transfer syntax is written (PS3.6, table A-1); `None` for those that deflate it, and for those
/// of other organisations.
fn encoding_of(uid: &[u8]) -> Option<Encoding> {
    // Padded to an even length.
    let uid = uid.strip_suffix(b"\0").unwrap_or(uid);
    let which = uid.strip_prefix(b"1.2.840.10008.1.2")?;
    match which {
        b"" => Some(IMPLICIT),
        b".2" => Some(Encoding {
            explicit: true,
            big_endian: true,
        }),
        // Deflated, and JPIP Referenced Deflate (JPEG 2000 and HTJ2K).
        b".1.99" | b".4.95" | b".4.205" => None,
        // Whatever else pixels are compressed with, the data set is explicit little endian (PS3.5, section A.4).
        _ => (which[0] == b'.').then_some(EXPLICIT),
    }
}

/// An IS value (PS3.5, section 6.2): a decimal number, padded with spaces. An empty one counts as 1, NumberOfFrames'
/// default.
fn integer_string(value: &[u8]) -> Result<u64, NoCount> {
    let text = str::from_utf8(value).map_err(|_| NoCount::Unknown)?;
    match text.trim_matches([' ', '\0']) {
        "" => Ok(1),
        number => number.parse().map_err(|_| NoCount::Unknown),
    }
}

#[cfg(test)]
mod tests;
