//! Image formats, known by their first bytes: what a server calls its answer proves nothing (S15).

use http::{HeaderName, HeaderValue, header};

/// A format that browsers show in an `<img>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// JPEG; WeChat calls it `image/jpg`.
    Jpeg,
    /// PNG.
    Png,
    /// GIF.
    Gif,
    /// WebP.
    WebP,
}

impl Format {
    /// Recognises an image by its signature.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0xff, 0xd8, 0xff, ..] => Some(Self::Jpeg),
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some(Self::Png),
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(Self::Gif),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(Self::WebP),
            _ => None,
        }
    }

    /// The fields that every image of this format is served with: its registered media type, which browsers are told to
    /// believe, and that any site may show it (Fetch standard §3.7).
    pub fn fields(self) -> &'static [(HeaderName, HeaderValue); 3] {
        static FIELDS: [[(HeaderName, HeaderValue); 3]; 4] = [
            fields(Format::Jpeg.media_type()),
            fields(Format::Png.media_type()),
            fields(Format::Gif.media_type()),
            fields(Format::WebP.media_type()),
        ];
        &FIELDS[self as usize]
    }

    /// Its registered media type.
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Jpeg => "image/jpeg",
            Self::Png => "image/png",
            Self::Gif => "image/gif",
            Self::WebP => "image/webp",
        }
    }

    /// The extension of a file in it.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Jpeg => "jpg",
            Self::Png => "png",
            Self::Gif => "gif",
            Self::WebP => "webp",
        }
    }
}

const fn fields(content_type: &'static str) -> [(HeaderName, HeaderValue); 3] {
    [
        (header::CONTENT_TYPE, HeaderValue::from_static(content_type)),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("cross-origin")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_decide() {
        assert_eq!(Format::of(b"\xff\xd8\xff\xe0\0\x10JFIF"), Some(Format::Jpeg));
        assert_eq!(Format::of(b"\x89PNG\r\n\x1a\n...."), Some(Format::Png));
        assert_eq!(Format::of(b"GIF89a.."), Some(Format::Gif));
        assert_eq!(Format::of(b"RIFF\x10\0\0\0WEBPVP8 "), Some(Format::WebP));
        for other in [&b""[..], b"\xff", b"<html>", b"{\"errcode\":-1}", b"RIFF\x10\0\0\0WAVE", b"\xff\xd8", b"GIF88a"]
        {
            assert_eq!(Format::of(other), None);
        }
    }

    #[test]
    fn each_format_is_called_by_its_registered_name() {
        let named = [
            (Format::Jpeg, "image/jpeg"),
            (Format::Png, "image/png"),
            (Format::Gif, "image/gif"),
            (Format::WebP, "image/webp"),
        ];
        for (format, name) in named {
            assert_eq!(format.fields()[0], (header::CONTENT_TYPE, HeaderValue::from_static(name)));
        }
    }
}
