//! Draws the picture of a ticket: a QR code of its url, as large and about as heavy as WeChat's own. Pure; the same url
//! always gives the same bytes, and a scanner reads the url back.

use fast_qr::qr::{QRBuilder, QRCode};
use fast_qr::{ECL, Mode};
use jpeg_encoder::{ColorType, Encoder};

/// Pixels along a side.
pub const SIDE: u16 = 430;

/// Modules of white around the code that a scanner may ask for (ISO/IEC 18004).
const QUIET: usize = 4;
/// Comes out at about 28 KB, the size of WeChat's picture in its documentation.
const QUALITY: u8 = 85;

/// Draws the code of `url` as a JPEG; `None` when the url is too long to be drawn at this size.
pub fn draw(url: &str) -> Option<Vec<u8>> {
    let code = QRBuilder::new(url).mode(Mode::Byte).ecl(ECL::Q).build().ok()?;
    let mut jpeg = Vec::new();
    Encoder::new(&mut jpeg, QUALITY).encode(&pixels(&code)?, SIDE, SIDE, ColorType::Luma).ok()?;
    Some(jpeg)
}

/// Black on white, in the middle, every module a square of whole pixels.
fn pixels(code: &QRCode) -> Option<Vec<u8>> {
    let side = usize::from(SIDE);
    let module = side / (code.size + 2 * QUIET);
    let margin = (side - module * code.size) / 2;
    let dark = |at: usize| at.checked_sub(margin)?.checked_div(module).filter(|index| *index < code.size);
    let shade = |y, x| match (dark(y), dark(x)) {
        (Some(row), Some(column)) if code[row][column].value() => 0,
        _ => u8::MAX,
    };
    (module > 0).then(|| (0..side * side).map(|pixel| shade(pixel / side, pixel % side)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_url_gives_the_same_bytes() {
        assert_eq!(draw("http://weixin.qq.com/q/x"), draw("http://weixin.qq.com/q/x"));
    }

    #[test]
    fn what_does_not_fit_is_not_drawn() {
        assert_eq!(draw(&"x".repeat(4000)), None);
    }
}
