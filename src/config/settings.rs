//! The macro that declares a section of the configuration.

/// Declares one section: the struct, its defaults, its documentation and how it is decoded, from one text.
///
/// ```text
/// settings! {
///     /// What the section is.
///     pub struct Name [may be empty] {
///         /// What the key means; its default.
///         "keyAsInTraefik" => field: Type as Format = default;
///     }
///     unsupported { "otherKey": "what to use instead"; }
///     inert { "harmlessKey": "why it has no effect"; }
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
    };
    (@default) => { Default::default() };
    (@default $default:expr) => { $default };
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
        }
    };
}
