//! The subject of a certificate as Go's `pkix.Name` writes it: what Traefik's users have in logs and headers.
//!
//! Go sorts the attributes into fields first, so their order in the certificate does not count: serial number, common
//! name, postal code, street, province, locality, unit, organization, country, and before them in the certificate's
//! order what it has no field for.

use std::fmt::Write as _;

use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::AttributeTypeAndValue;

/// Bytes of a subject that are kept. A client can make up any certificate where none is verified.
const LONGEST: usize = 4096;

/// Last arc of an attribute below 2.5.4, and its name, in the order of the text.
const FIELDS: [(u8, &str); 9] = [
    (5, "SERIALNUMBER"),
    (3, "CN"),
    (17, "POSTALCODE"),
    (9, "STREET"),
    (8, "ST"),
    (7, "L"),
    (11, "OU"),
    (10, "O"),
    (6, "C"),
];

/// The subject of a certificate; empty if it cannot be read. No more than 4 KiB of it.
pub(super) fn subject(der: &[u8]) -> String {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else {
        return String::new();
    };
    let attributes: Vec<&AttributeTypeAndValue<'_>> = certificate.subject().iter_attributes().collect();
    let mut text = String::new();
    for (arc, name) in FIELDS {
        let of_this = attributes.iter().filter(|a| known_arc(a) == Some(arc));
        let mut values: Vec<String> = of_this.filter_map(|a| value(a)).collect();
        // Go keeps the last one of those that it takes for single.
        if matches!(arc, 3 | 5) && values.len() > 1 {
            values.drain(..values.len() - 1);
        }
        values.retain(|value| !(matches!(arc, 3 | 5) && value.is_empty()));
        if values.is_empty() {
            continue;
        }
        separate(&mut text);
        for (index, value) in values.iter().enumerate() {
            let plus = if index > 0 { "+" } else { "" };
            let _infallible = write!(text, "{plus}{name}={}", Escaped(value));
        }
    }
    for other in attributes.iter().rev().filter(|a| known_arc(a).is_none()) {
        separate(&mut text);
        let _infallible = write!(text, "{}=#", other.attr_type().to_id_string());
        for byte in encoded(other) {
            let _infallible = write!(text, "{byte:02x}");
        }
    }
    if text.len() > LONGEST {
        text.truncate(text.floor_char_boundary(LONGEST));
    }
    text
}

fn separate(text: &mut String) {
    if !text.is_empty() {
        text.push(',');
    }
}

fn known_arc(attribute: &AttributeTypeAndValue<'_>) -> Option<u8> {
    match attribute.attr_type().as_bytes() {
        [0x55, 4, arc] if FIELDS.iter().any(|(known, _)| known == arc) => Some(*arc),
        _ => None,
    }
}

/// The value as text; Go leaves out what is none.
fn value(attribute: &AttributeTypeAndValue<'_>) -> Option<String> {
    let value = attribute.attr_value();
    if value.tag().0 == BMP_STRING {
        let units = value
            .data
            .chunks_exact(2)
            .map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
        return Some(
            char::decode_utf16(units)
                .map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER))
                .collect(),
        );
    }
    matches!(value.tag().0, 12 | 18 | 19 | 20 | 22).then(|| String::from_utf8_lossy(value.data).into_owned())
}

/// Tag of BMPString.
const BMP_STRING: u32 = 30;

/// The value in DER as Go encodes it again: text that fits is a PrintableString, other text UTF-8.
fn encoded(attribute: &AttributeTypeAndValue<'_>) -> Vec<u8> {
    const UTF8: u8 = 12;
    const PRINTABLE: u8 = 19;
    let Some(text) = value(attribute) else {
        return tagged(
            u8::try_from(attribute.attr_value().tag().0).unwrap_or(0),
            attribute.attr_value().data,
        );
    };
    let printable = text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b" '()+,-./:=?".contains(&b));
    tagged(if printable { PRINTABLE } else { UTF8 }, text.as_bytes())
}

fn tagged(tag: u8, data: &[u8]) -> Vec<u8> {
    let mut der = vec![tag];
    let length = data.len();
    match u8::try_from(length) {
        Ok(short) if short < 128 => der.push(short),
        _ => {
            let bytes = length.to_be_bytes();
            let bytes = &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..];
            der.push(0x80 | u8::try_from(bytes.len()).unwrap_or(0));
            der.extend_from_slice(bytes);
        }
    }
    der.extend_from_slice(data);
    der
}

/// A value with RFC 2253's escapes, as Go sets them.
struct Escaped<'a>(&'a str);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let last = self.0.len().saturating_sub(1);
        for (at, c) in self.0.char_indices() {
            let escape = match c {
                ',' | '+' | '"' | '\\' | '<' | '>' | ';' => true,
                ' ' => at == 0 || at == last,
                '#' => at == 0,
                _ => false,
            };
            if escape {
                f.write_char('\\')?;
            }
            f.write_char(c)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::openssl;
    use super::*;

    /// The subject of a certificate that openssl makes.
    fn of(openssl_subject: &str) -> String {
        let key = openssl(
            &["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
            "",
        );
        let arguments = ["req", "-x509", "-utf8", "-subj", openssl_subject, "-key", "/dev/stdin"];
        let pem = openssl(&arguments, &key);
        subject(&super::super::keys::certificates_from_pem(pem.as_bytes()).unwrap()[0])
    }

    #[test]
    fn as_go_writes_it() {
        let table = [
            ("/CN=scanner", "CN=scanner"),
            (
                "/C=DE/O=Klinik/OU=MRI/CN=scanner 1",
                "CN=scanner 1,OU=MRI,O=Klinik,C=DE",
            ),
            ("/CN=a/OU=x/OU=y/O=o", "CN=a,OU=x+OU=y,O=o"),
            ("/CN=first/CN=last", "CN=last"),
            ("/O=A, B\\+C \"D\"/CN=#1 ", "CN=\\#1\\ ,O=A\\, B\\+C \\\"D\\\""),
            (
                "/CN=Müller/L=Köln/ST=NRW/serialNumber=7",
                "SERIALNUMBER=7,CN=Müller,ST=NRW,L=Köln",
            ),
            (
                "/O=o/emailAddress=a@b.c/CN=n",
                "CN=n,O=o,1.2.840.113549.1.9.1=#0c056140622e63",
            ),
        ];
        for (given, expected) in table {
            assert_eq!(of(given), expected, "{given}");
        }
        assert_eq!(subject(b"no certificate"), "");
    }

    #[test]
    fn a_long_subject_is_cut() {
        let many: String = (0..40).map(|_| format!("/OU={}", "ä".repeat(60))).collect();
        let text = of(&many);
        assert!((LONGEST - 2..=LONGEST).contains(&text.len()), "{}", text.len());
        assert_eq!(tagged(12, &[7; 300])[..4], [12, 0x82, 1, 44]);
    }
}
