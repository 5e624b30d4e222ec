//! How a section of the configuration is declared: one text is the struct, its defaults, its documentation and its
//! decoding.
//!
//! Invariants: a field cannot be declared without a sentence of documentation (the macro asks for one); each key of
//! Traefik that is not built has its own line, so that it is never taken for a typing error.

use super::decode::Decoder;
use super::node::Node;

/// A value that the configuration can hold.
pub trait Setting: Sized {
    /// What its values are called: "duration", "list of text".
    fn type_name() -> String;

    /// Reads it. `None`: a diagnostic says why not, and the default stays.
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self>;

    /// How this value is written in the file, for the documentation of defaults; `None` when it is empty.
    fn show(&self) -> Option<String> {
        None
    }

    /// The keys, if it is a section or holds sections.
    #[must_use]
    fn keys() -> Option<&'static Keys> {
        None
    }

    /// The words it may be, if it is a choice.
    #[must_use]
    fn words() -> &'static [&'static str] {
        &[]
    }

    /// Whether it is written as one word, so that a list of it may be written with commas.
    const SCALAR: bool = true;

    /// Whether a key without a value (`tls:`) says something; otherwise the default holds, with a warning.
    const TAKES_NOTHING: bool = false;
}

/// A way to read a `T` that is stricter than, or different from, its type's own.
pub trait Format<T> {
    /// As [`Setting::type_name`].
    fn type_name() -> String;
    /// As [`Setting::decode`].
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<T>;
    /// As [`Setting::show`].
    fn show(value: &T) -> Option<String>;
    /// As [`Setting::keys`].
    #[must_use]
    fn keys() -> Option<&'static Keys> {
        None
    }
    /// As [`Setting::words`].
    #[must_use]
    fn words() -> &'static [&'static str] {
        &[]
    }
    /// As [`Setting::SCALAR`].
    const SCALAR: bool = true;
    /// As [`Setting::TAKES_NOTHING`].
    const TAKES_NOTHING: bool = false;
}

/// The type's own way.
#[derive(Debug)]
pub struct Plain;

impl<T: Setting> Format<T> for Plain {
    fn type_name() -> String {
        T::type_name()
    }
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<T> {
        T::decode(node, decoder)
    }
    fn show(value: &T) -> Option<String> {
        value.show()
    }
    fn keys() -> Option<&'static Keys> {
        T::keys()
    }
    fn words() -> &'static [&'static str] {
        T::words()
    }
    const SCALAR: bool = T::SCALAR;
    const TAKES_NOTHING: bool = T::TAKES_NOTHING;
}

/// The keys of a section.
#[derive(Debug)]
pub struct Keys {
    /// What the section is.
    pub about: &'static str,
    /// Whether it may stand there without any key.
    pub may_be_empty: bool,
    /// The keys that are built.
    pub fields: &'static [Field],
    /// Keys of Traefik or of Gantry's plan that are refused by name, with what to do instead.
    pub unsupported: &'static [(&'static str, &'static str)],
    /// Keys that are taken with a warning and do nothing, with the reason.
    pub inert: &'static [(&'static str, &'static str)],
}

/// One key of a section, with its documentation.
#[derive(Debug)]
pub struct Field {
    /// The key as Traefik writes it.
    pub key: &'static str,
    /// What it means, in one or a few lines.
    pub doc: &'static str,
    /// What its values are called.
    pub type_name: fn() -> String,
    /// Its default as it would be written in the file; `None` when there is none, or nothing.
    pub default: fn() -> Option<String>,
    /// The keys of the section, or of each section in the list or map, that it holds.
    pub keys: fn() -> Option<&'static Keys>,
    /// The words that it may be.
    pub words: fn() -> &'static [&'static str],
}

/// Declares one section: the struct, its defaults, its documentation and how it is decoded, from one text.
///
/// ```text
/// settings! {
///     /// What the section is.
///     pub struct Name [empty] {                 // [empty]: may stand without keys
///         /// What the key means; its default.
///         "keyAsInTraefik" => field: Type as Format = default;
///     }
///     unsupported { "otherKey": "what to do instead"; }
///     inert { "harmlessKey": "why it has no effect"; }
///     check function;                           // what holds among several keys
/// }
/// ```
macro_rules! settings {
    (
        $(#[doc = $about:literal])+
        pub struct $name:ident $([$empty:ident])? {
            $(
                $(#[doc = $doc:literal])+
                $key:literal => $field:ident : $ty:ty $(as $format:ty)? $(= $default:expr)?;
            )*
        }
        $(unsupported { $($unsupported:literal : $instead:literal;)* })?
        $(inert { $($inert:literal : $why:literal;)* })?
        $(check $check:path;)?
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            $(
                $(#[doc = $doc])+
                pub $field: $ty,
            )*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: settings!(@default $($default)?),)* }
            }
        }

        const _: () = {
            #[allow(unused_imports, reason = "a section may have no keys")]
            use $crate::config::settings::{Field, Format, Keys, Setting};

            static KEYS: Keys = Keys {
                about: concat!($($about, "\n"),+),
                may_be_empty: settings!(@given $($empty)?),
                fields: &[$(Field {
                    key: $key,
                    doc: concat!($($doc, "\n"),+),
                    type_name: <settings!(@format $($format)?) as Format<$ty>>::type_name,
                    default: || <settings!(@format $($format)?) as Format<$ty>>::show(&$name::default().$field),
                    keys: <settings!(@format $($format)?) as Format<$ty>>::keys,
                    words: <settings!(@format $($format)?) as Format<$ty>>::words,
                },)*],
                unsupported: &[$($(($unsupported, $instead),)*)?],
                inert: &[$($(($inert, $why),)*)?],
            };

            impl Setting for $name {
                fn type_name() -> String {
                    "section".to_owned()
                }

                #[allow(unused_mut, unused_variables, unused_assignments, reason = "a section may have no keys or no check")]
                fn decode(
                    node: &$crate::config::node::Node,
                    decoder: &mut $crate::config::decode::Decoder<'_>,
                ) -> Option<Self> {
                    let mut section = Self::default();
                    let found = decoder.section(node, &KEYS)?;
                    let mut complete = found.complete;
                    for (key, entry) in found.entries {
                        match key {
                            $($key => complete &= decoder.key::<$ty, settings!(@format $($format)?)>(
                                key, entry, &mut section.$field,
                            ),)*
                            _ => {}
                        }
                    }
                    $(if complete {
                        $check(&section, node, decoder);
                    })?
                    Some(section)
                }

                fn keys() -> Option<&'static Keys> {
                    Some(&KEYS)
                }

                const SCALAR: bool = false;
                const TAKES_NOTHING: bool = true;
            }
        };
    };
    (@default) => { Default::default() };
    (@default $default:expr) => { $default };
    (@given) => { false };
    (@given $empty:ident) => { true };
    (@format) => { $crate::config::settings::Plain };
    (@format $format:ty) => { $format };
}

/// Declares a setting that is one of a few words.
macro_rules! choices {
    (
        $(#[doc = $about:literal])+
        pub enum $name:ident {
            $(
                $(#[doc = $doc:literal])+
                $(#[$default:ident])?
                $word:literal $(| $also:literal)* => $variant:ident;
            )*
        }
        $(unsupported { $($unsupported:literal : $instead:literal;)* })?
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
        pub enum $name {
            $(
                $(#[doc = $doc])+
                $(#[$default])?
                $variant,
            )*
        }

        impl $name {
            /// The word that stands for it in the file.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// What a word stands for.
            #[must_use]
            pub fn from_word(word: &str) -> Option<Self> {
                match word {
                    $($word $(| $also)* => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }

        impl $crate::config::settings::Setting for $name {
            fn type_name() -> String {
                "word".to_owned()
            }
            fn decode(
                node: &$crate::config::node::Node,
                decoder: &mut $crate::config::decode::Decoder<'_>,
            ) -> Option<Self> {
                decoder.word(node, Self::from_word, Self::words(), &[$($(($unsupported, $instead),)*)?])
            }
            fn show(&self) -> Option<String> {
                Some(self.as_str().to_owned())
            }
            fn words() -> &'static [&'static str] {
                &[$($word),*]
            }
        }
    };
}
