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
    use proptest::prelude::*;
    use zune_jpeg::JpegDecoder;
    use zune_jpeg::zune_core::bytestream::ZCursor;
    use zune_jpeg::zune_core::colorspace::ColorSpace;
    use zune_jpeg::zune_core::options::DecoderOptions;

    use super::*;

    fn scanned(jpeg: &[u8]) -> String {
        let options = DecoderOptions::default().jpeg_set_out_colorspace(ColorSpace::Luma);
        let mut decoder = JpegDecoder::new_with_options(ZCursor::new(jpeg), options);
        let luma = decoder.decode().unwrap();
        assert_eq!(decoder.dimensions(), Some((SIDE.into(), SIDE.into())));
        let side = usize::from(SIDE);
        let mut picture = rqrr::PreparedImage::prepare_from_greyscale(side, side, |x, y| luma[y * side + x]);
        let grids = picture.detect_grids();
        assert_eq!(grids.len(), 1);
        grids[0].decode().unwrap().1
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn a_scanner_reads_the_url_back(code in "[0-9A-Za-z_-]{20,22}") {
            let url = format!("http://weixin.qq.com/q/{code}");
            prop_assert_eq!(scanned(&draw(&url).unwrap()), url);
        }

        #[test]
        fn a_picture_is_as_heavy_as_wechats(code in "[0-9A-Za-z]{20}") {
            let weight = draw(&format!("http://weixin.qq.com/q/{code}")).unwrap().len();
            prop_assert!((26_000..=30_000).contains(&weight), "{} bytes", weight);
        }
    }

    #[test]
    fn the_same_url_gives_the_same_bytes() {
        assert_eq!(draw("http://weixin.qq.com/q/x"), draw("http://weixin.qq.com/q/x"));
    }

    #[test]
    fn what_does_not_fit_is_not_drawn() {
        assert_eq!(draw(&"x".repeat(4000)), None);
    }
}
