//! Reads QR codes off pictures, as a phone would.

use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

/// A picture without its colours.
pub struct Grey {
    pub width: usize,
    pub height: usize,
    pixels: Vec<u8>,
}

impl Grey {
    pub fn of(jpeg: &[u8]) -> Self {
        let options = DecoderOptions::default().jpeg_set_out_colorspace(ColorSpace::Luma);
        let mut decoder = JpegDecoder::new_with_options(ZCursor::new(jpeg), options);
        let pixels = decoder.decode().expect("a JPEG");
        let (width, height) = decoder.dimensions().unwrap();
        Self { width, height, pixels }
    }

    /// What the one code on the picture says.
    pub fn scan(&self) -> String {
        let pixel = |x: usize, y: usize| self.pixels[y * self.width + x];
        let mut picture = rqrr::PreparedImage::prepare_from_greyscale(self.width, self.height, pixel);
        let codes = picture.detect_grids();
        assert_eq!(codes.len(), 1, "one code");
        codes[0].decode().expect("a code that can be read").1
    }
}
