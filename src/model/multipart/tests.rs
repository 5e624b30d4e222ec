use super::*;

/// What came of each part: its name, its bytes, and whether it ended.
#[derive(Debug, Default, PartialEq, Eq, Clone)]
struct Told(Vec<(Option<String>, Vec<u8>, bool)>);

impl Parts for Told {
    fn begin(&mut self, head: PartHead) {
        self.0.push((head.name, Vec::new(), false));
    }

    fn data(&mut self, data: Bytes) {
        assert!(!data.is_empty());
        self.0.last_mut().expect("a part began").1.extend_from_slice(&data);
    }

    fn end(&mut self) {
        self.0.last_mut().expect("a part began").2 = true;
    }
}

fn scan(pieces: &[&[u8]]) -> (Told, bool) {
    let mut scanner = Scanner::for_type("multipart/form-data; boundary=AbC").expect("a scanner");
    let mut told = Told::default();
    for piece in pieces {
        scanner.push(&Bytes::copy_from_slice(piece), &mut told);
    }
    (told, scanner.is_whole())
}

const BODY: &[u8] = b"a preamble\r\n--AbCnot\r\n--AbC \t\r\n\
    Content-Disposition: form-data; name=\"report\"\r\nContent-Type: application/json\r\n\r\n\
    {\"dice\": 0.9}\r\n--AbC\r\n\
    Content-ID: <mask>\r\n\r\n\
    \r\n--Ab\r\r\n--\r\n--AbCd\r\n--AbC -\r\n\x00\xff\r\n--AbC\r\n\r\n\r\n--AbC--\r\nan epilogue\r\n--AbC\r\n";

fn expected() -> Told {
    let part = |name: Option<&str>, data: &[u8]| (name.map(str::to_owned), data.to_vec(), true);
    Told(vec![
        part(Some("report"), b"{\"dice\": 0.9}"),
        part(Some("mask"), b"\r\n--Ab\r\r\n--\r\n--AbCd\r\n--AbC -\r\n\x00\xff"),
        part(None, b""),
    ])
}

#[test]
fn parts_are_found_wherever_the_body_is_cut() {
    assert_eq!(scan(&[BODY]), (expected(), true));
    for cut in 0..BODY.len() {
        let (first, rest) = BODY.split_at(cut);
        assert_eq!(scan(&[first, rest]), (expected(), true), "cut at {cut}");
        let second = cut + (BODY.len() - cut) / 2;
        let pieces = [first, &BODY[cut..second], &BODY[second..]];
        assert_eq!(scan(&pieces), (expected(), true), "cut at {cut} and {second}");
    }
    let bytes: Vec<&[u8]> = BODY.chunks(1).collect();
    assert_eq!(scan(&bytes), (expected(), true));
}

#[test]
fn the_first_delimiter_may_stand_at_the_beginning() {
    let (told, whole) = scan(&[b"--AbC\r\n\r\nx\r\n--AbC--"]);
    assert_eq!((told.0, whole), (vec![(None, b"x".to_vec(), true)], true));
}

#[test]
fn a_body_that_breaks_off_is_not_whole() {
    for short in [
        &b"--AbC\r\n\r\nx\r\n--AbC"[..],
        b"--AbC\r\n\r\nx\r\n--A",
        b"--AbC\r\n\r\nx",
    ] {
        let (told, whole) = scan(&[short]);
        assert!(!whole && told.0.iter().all(|part| !part.2), "{told:?}");
    }
    assert_eq!(scan(&[b"--AbC\r\nContent-Type: a"]), (Told::default(), false));
    assert_eq!(scan(&[b""]), (Told::default(), false));
}

#[test]
fn heads_and_padding_have_bounds() {
    let long = vec![b'a'; MAX_HEAD + 1];
    let mut scanner = Scanner::new("b");
    let mut told = Told::default();
    for piece in [b"--b\r\nX: ".as_slice(), &long, b"\r\n\r\ndata\r\n--b--"] {
        scanner.push(&Bytes::copy_from_slice(piece), &mut told);
    }
    assert_eq!(told, Told::default());
    assert!(!scanner.is_whole() && scanner.held.capacity() == 0);
    let padded = [
        b"--AbC".as_slice(),
        &vec![b' '; 4 * MAX_PADDING],
        b"\r\n\r\nx\r\n--AbC--",
    ]
    .concat();
    assert_eq!(scan(&[&padded]).0, Told::default());
}

#[test]
fn types_and_boundaries() {
    let is_one = |text: &str| Scanner::for_type(text).is_some();
    assert!(is_one("Multipart/Mixed; BOUNDARY=\"a b\""));
    assert!(is_one("multipart/related; type=\"application/json\"; boundary=x"));
    for other in [
        "",
        "multipart/mixed",
        "multipart/mixed; boundary=",
        "multipart/byteranges; boundary=x",
        "application/json; boundary=x",
    ] {
        assert!(!is_one(other), "{other}");
    }
    assert!(!is_one(&format!(
        "multipart/mixed; boundary={}",
        "x".repeat(MAX_BOUNDARY + 1)
    )));
}

#[test]
fn fields_of_a_part() {
    let head = part_head(
        b"Content-Disposition: attachment; filename=\"a;name=x\"; name=report\r\ncontent-type: application/json\r\n\
          Content-Encoding: gzip\r\nContent-Transfer-Encoding: BASE64\r\nrubbish\r\nContent-ID: <i>\r\n\r\n",
    );
    assert_eq!(head.name.as_deref(), Some("report"));
    assert_eq!(head.content_type.as_deref(), Some("application/json"));
    assert_eq!(head.content_encoding.as_deref(), Some("gzip"));
    assert_eq!(head.transfer_encoding.as_deref(), Some("BASE64"));
    assert_eq!(part_head(b"Content-Transfer-Encoding: binary\r\n"), PartHead::default());
}

proptest::proptest! {
    /// Rubbish that looks like multipart: never a panic, the same parts wherever it is cut, and no byte invented.
    #[test]
    fn cuts_change_nothing(
        words in proptest::collection::vec(proptest::sample::select(vec![
            "\r\n--AbC", "\r\n", "--AbC", "--", "\r", "\n", "A", " ", "AbC", "\r\n\r\n", "x: y", "Content-ID: <a>",
        ]), 0..40),
        size in 1_usize..9,
    ) {
        let body = words.concat();
        let whole = scan(&[body.as_bytes()]);
        let pieces: Vec<&[u8]> = body.as_bytes().chunks(size).collect();
        proptest::prop_assert_eq!(&scan(&pieces), &whole);
        let bytes: usize = whole.0.0.iter().map(|part| part.1.len()).sum();
        proptest::prop_assert!(bytes <= body.len());
    }

    /// What a writer of multipart writes comes out as it went in.
    #[test]
    fn parts_come_out_as_they_went_in(
        parts in proptest::collection::vec(proptest::collection::vec(proptest::prelude::any::<u8>(), 0..60), 0..4),
        size in 1_usize..20,
    ) {
        proptest::prop_assume!(parts.iter().all(|part| memchr::memmem::find(part, b"--AbC").is_none()));
        let mut body = Vec::new();
        for part in &parts {
            body.extend_from_slice(b"--AbC\r\nX: y\r\n\r\n");
            body.extend_from_slice(part);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(b"--AbC--\r\n");
        let pieces: Vec<&[u8]> = body.chunks(size).collect();
        let (told, whole) = scan(&pieces);
        proptest::prop_assert!(whole);
        proptest::prop_assert_eq!(told.0.into_iter().map(|part| part.1).collect::<Vec<_>>(), parts);
    }
}
