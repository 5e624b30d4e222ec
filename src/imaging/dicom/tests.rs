//! Files built element by element: every encoding, and what must not be taken for the image's own size.

use proptest::prelude::*;

use super::*;

const IMPLICIT_LITTLE: &str = "1.2.840.10008.1.2";
const EXPLICIT_LITTLE: &str = "1.2.840.10008.1.2.1";
const EXPLICIT_BIG: &str = "1.2.840.10008.1.2.2";
const JPEG_LOSSLESS: &str = "1.2.840.10008.1.2.4.70";

/// A data set that is being written.
#[derive(Clone)]
struct Writer {
    encoding: Encoding,
    bytes: Vec<u8>,
}

impl Writer {
    fn new(encoding: Encoding) -> Self {
        let bytes = Vec::new();
        Self { encoding, bytes }
    }

    fn u16(mut self, value: u16) -> Self {
        self.bytes.extend(match self.encoding.big_endian {
            true => value.to_be_bytes(),
            false => value.to_le_bytes(),
        });
        self
    }

    fn u32(mut self, value: u32) -> Self {
        self.bytes.extend(match self.encoding.big_endian {
            true => value.to_be_bytes(),
            false => value.to_le_bytes(),
        });
        self
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend(bytes);
        self
    }

    fn head(self, tag: Tag, vr: &str, length: u32) -> Self {
        let tagged = self.u16(tag.0).u16(tag.1);
        if !tagged.encoding.explicit || vr.is_empty() {
            tagged.u32(length)
        } else if ["OB", "OW", "SQ", "UN", "UT"].contains(&vr) {
            tagged.raw(vr.as_bytes()).u16(0).u32(length)
        } else {
            tagged.raw(vr.as_bytes()).u16(u16::try_from(length).unwrap())
        }
    }

    fn element(self, tag: Tag, vr: &str, value: &[u8]) -> Self {
        self.head(tag, vr, u32::try_from(value.len()).unwrap()).raw(value)
    }

    fn short(self, tag: Tag, value: u16) -> Self {
        self.head(tag, "US", 2).u16(value)
    }

    /// The elements that every image has before its size, then the size.
    fn image(self, rows: u16, columns: u16, frames: &str) -> Self {
        let before = self.element(Tag(0x0008, 0x0060), "CS", b"MR");
        before
            .size(rows, columns, frames)
            .element(Tag(0x7fe0, 0x0010), "OW", &[0; 16])
    }

    fn size(self, rows: u16, columns: u16, frames: &str) -> Self {
        let photometric = self.short(Tag(0x0028, 0x0002), 1);
        let counted = match frames {
            "" => photometric,
            frames => photometric.element(FRAMES, "IS", frames.as_bytes()),
        };
        counted.short(ROWS, rows).short(COLUMNS, columns)
    }

    /// A sequence of one item, both of undefined length.
    fn endless(self, tag: Tag, vr: &str, item: &Self) -> Self {
        self.head(tag, vr, UNDEFINED)
            .head(ITEM, "", UNDEFINED)
            .raw(&item.bytes)
            .head(ITEM_END, "", 0)
            .head(SEQUENCE_END, "", 0)
    }
}

fn encoding(uid: &str) -> Encoding {
    encoding_of(uid.as_bytes()).unwrap()
}

fn file(uid: &str, data: &Writer) -> Vec<u8> {
    let mut padded = uid.to_owned();
    if padded.len() % 2 == 1 {
        padded.push('\0');
    }
    let mut bytes = vec![0xa5; 128];
    bytes.extend(b"DICM");
    let meta = Writer::new(EXPLICIT)
        .head(Tag(2, 0), "UL", 4)
        .u32(0)
        .element(Tag(2, 1), "OB", &[0, 1])
        .element(TRANSFER_SYNTAX, "UI", padded.as_bytes());
    bytes.extend(meta.bytes);
    bytes.extend(&data.bytes);
    bytes
}

/// The count of a data set that `write` makes, in each of the encodings, which must agree.
fn in_all_encodings(write: impl Fn(Writer) -> Writer) -> Result<u64, NoCount> {
    let [first, rest @ ..] = [IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG, JPEG_LOSSLESS]
        .map(|uid| voxels(&file(uid, &write(Writer::new(encoding(uid))))));
    assert!(rest.iter().all(|other| *other == first), "{first:?} {rest:?}");
    first
}

#[test]
fn rows_columns_and_frames_are_multiplied() {
    assert_eq!(in_all_encodings(|w| w.image(256, 192, "")), Ok(256 * 192));
    assert_eq!(in_all_encodings(|w| w.image(256, 192, "150 ")), Ok(256 * 192 * 150));
    assert_eq!(
        in_all_encodings(|w| w.image(u16::MAX, u16::MAX, "4294967295")),
        Ok(65_535 * 65_535 * 4_294_967_295)
    );
    assert_eq!(
        in_all_encodings(|w| w.image(u16::MAX, u16::MAX, "8589934592")),
        Err(NoCount::Unknown)
    );
    for frames in ["-1", "1.5", "many", "99999999999999999999"] {
        assert_eq!(
            in_all_encodings(|w| w.image(4, 4, frames)),
            Err(NoCount::Unknown),
            "{frames}"
        );
    }
}

#[test]
fn an_image_inside_a_sequence_is_not_the_image() {
    let icon = Tag(0x0009, 0x1010);
    assert_eq!(
        in_all_encodings(|w| {
            let inner = Writer::new(w.encoding).size(64, 64, "9 ");
            w.endless(icon, "SQ", &inner).size(256, 192, "")
        }),
        Ok(256 * 192)
    );
    // lengths told, of the item and of the sequence
    assert_eq!(
        in_all_encodings(|w| {
            let inner = Writer::new(w.encoding).size(64, 64, "9 ");
            let item = Writer::new(w.encoding).element(ITEM, "", &inner.bytes);
            w.element(Tag(8, 0x1140), "SQ", &item.bytes).size(10, 10, "")
        }),
        Ok(100)
    );
    // an item's length told, the sequence's not, and a sequence inside a sequence
    assert_eq!(
        in_all_encodings(|w| {
            let inner = Writer::new(w.encoding).endless(Tag(8, 0x1199), "SQ", &Writer::new(w.encoding).size(1, 2, ""));
            w.head(Tag(8, 0x1140), "SQ", UNDEFINED)
                .element(ITEM, "", &inner.bytes)
                .element(ITEM, "", &[])
                .head(SEQUENCE_END, "", 0)
                .endless(Tag(8, 0x1141), "SQ", &inner)
                .size(10, 10, "")
        }),
        Ok(100)
    );
}

#[test]
fn a_sequence_that_only_holds_an_image_is_no_image() {
    assert_eq!(
        in_all_encodings(|w| {
            let inner = Writer::new(w.encoding).size(64, 64, "");
            w.endless(Tag(8, 0x1140), "SQ", &inner)
                .element(Tag(0x7fe0, 0x0010), "OW", &[0; 16])
        }),
        Err(NoCount::Unknown)
    );
}

#[test]
fn an_unknown_sequence_is_implicit_inside() {
    for uid in [EXPLICIT_LITTLE, JPEG_LOSSLESS] {
        let inside = Writer::new(IMPLICIT).endless(Tag(0x0011, 0x1010), "", &Writer::new(IMPLICIT).size(7, 7, ""));
        let data = Writer::new(encoding(uid)).endless(Tag(9, 0x1010), "UN", &inside);
        assert_eq!(voxels(&file(uid, &data.size(5, 6, ""))), Ok(30));
    }
}

#[test]
fn nesting_has_an_end() {
    let nested = |depth: usize| {
        let mut inner = Writer::new(EXPLICIT);
        for _ in 0..depth {
            inner = Writer::new(EXPLICIT).endless(Tag(8, 0x1140), "SQ", &inner);
        }
        voxels(&file(EXPLICIT_LITTLE, &inner.size(5, 6, "")))
    };
    assert_eq!(nested(MAX_DEPTH), Ok(30));
    assert_eq!(nested(MAX_DEPTH + 1), Err(NoCount::Unknown));
    assert_eq!(nested(2_000), Err(NoCount::Unknown));
}

#[test]
fn what_makes_no_sense_is_unknown() {
    let explicit = || Writer::new(EXPLICIT);
    let cases = [
        ("deflated", file("1.2.840.10008.1.2.1.99", &explicit().image(4, 4, ""))),
        (
            "somebody's own",
            file("1.2.840.113619.5.2", &explicit().image(4, 4, "")),
        ),
        ("almost", file("1.2.840.10008.1.29", &explicit().image(4, 4, ""))),
        ("no rows", file(EXPLICIT_LITTLE, &explicit().short(COLUMNS, 4))),
        (
            "no image",
            file(EXPLICIT_LITTLE, &explicit().element(Tag(0x0040, 1), "CS", b"X ")),
        ),
        (
            "out of order",
            file(
                EXPLICIT_LITTLE,
                &explicit().short(ROWS, 4).element(FRAMES, "IS", b"9 ").short(COLUMNS, 4),
            ),
        ),
        (
            "twice",
            file(
                EXPLICIT_LITTLE,
                &explicit().short(ROWS, 4).short(ROWS, 5).short(COLUMNS, 4),
            ),
        ),
        (
            "rows of another type",
            file(
                EXPLICIT_LITTLE,
                &explicit().element(ROWS, "SS", &[4, 0]).short(COLUMNS, 4),
            ),
        ),
        (
            "two rows",
            file(
                EXPLICIT_LITTLE,
                &explicit().element(ROWS, "US", &[4, 0, 4, 0]).short(COLUMNS, 4),
            ),
        ),
        (
            "no type",
            file(
                EXPLICIT_LITTLE,
                &explicit().element(Tag(8, 8), "zz", b"A ").image(4, 4, ""),
            ),
        ),
        (
            "pixels first",
            file(
                EXPLICIT_LITTLE,
                &explicit().head(Tag(8, 8), "OB", UNDEFINED).size(4, 4, ""),
            ),
        ),
        (
            "an item's end",
            file(
                EXPLICIT_LITTLE,
                &explicit().head(Tag(8, 8), "SQ", UNDEFINED).head(ITEM_END, "", 0),
            ),
        ),
        (
            "text without end",
            file(IMPLICIT_LITTLE, &Writer::new(IMPLICIT).head(ROWS, "", UNDEFINED)),
        ),
    ];
    for (what, bytes) in cases {
        assert_eq!(voxels(&bytes), Err(NoCount::Unknown), "{what}");
    }
    let no_syntax = [&[0; 128][..], b"DICM", &explicit().image(4, 4, "").bytes].concat();
    assert_eq!(voxels(&no_syntax), Err(NoCount::Unknown));
}

#[test]
fn a_file_cut_anywhere_before_its_size_is_cut() {
    for uid in [IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG] {
        let inner = Writer::new(encoding(uid)).size(64, 64, "9 ");
        let data = Writer::new(encoding(uid))
            .endless(Tag(8, 0x1140), "SQ", &inner)
            .size(5, 6, "7 ");
        let bytes = file(uid, &data);
        for keep in PREAMBLE_BYTES..bytes.len() {
            assert_eq!(voxels(&bytes[..keep]), Err(NoCount::Cut), "{uid} {keep}");
        }
        assert_eq!(voxels(&bytes), Ok(210));
    }
}

proptest! {
    #[test]
    fn random_data_sets_never_panic(
        uid in proptest::sample::select(vec![IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG]),
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
    ) {
        let _ = voxels(&file(uid, &Writer::new(encoding(uid)).raw(&bytes)));
        let _ = voxels(&bytes);
    }

    #[test]
    fn damaged_files_never_panic(
        uid in proptest::sample::select(vec![IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG]),
        keep in 0_usize..600,
        changes in proptest::collection::vec((128_usize..600, any::<u8>()), 0..8),
    ) {
        let inner = Writer::new(encoding(uid)).size(64, 64, "9 ");
        let data = Writer::new(encoding(uid)).endless(Tag(8, 0x1140), "SQ", &inner).size(5, 6, "7 ");
        let mut bytes = file(uid, &data);
        bytes.truncate(keep);
        for (at, value) in changes {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        let _ = voxels(&bytes);
    }
}
