//! Tickets, their pictures, and in which order they are asked for. All of it follows from numbers: the origin knows what
//! to answer and the harness what to expect, without either keeping anything.

use ticketgate::moment::Wall;
use ticketgate::ticket::{Validity, mint};

/// As large as WeChat's own.
pub const IMAGE: usize = 28_026;

/// The ticket of a number.
pub fn ticket(number: u64) -> String {
    let url = format!("http://weixin.qq.com/q/{number:022}");
    mint(&url, Wall::from_unix(1_700_000_000), Validity::Permanent).expect("it fits")
}

/// The same as a page asks for it.
pub fn target(number: u64) -> String {
    format!("/cgi-bin/showqrcode?ticket={}", ticket(number).replace('=', "%3D"))
}

/// What is answered to `target`: no picture, but to everybody on the way a JPEG of this size, of which no two are alike.
pub fn image(target: &str, size: usize) -> Vec<u8> {
    let mut random = Random(hash(target));
    let mut image = vec![0xff, 0xd8, 0xff, 0xe0];
    while image.len() < size {
        image.extend_from_slice(&random.next().to_le_bytes());
    }
    image.truncate(size - 2);
    image.extend_from_slice(&[0xff, 0xd9]);
    image
}

/// FNV-1a.
pub fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// The same numbers in every run: `xorshift64*`.
#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    /// Any number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.max(1);
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// From 0 to 1.
    fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// In which order tickets are asked for.
#[derive(Debug, Clone, Copy)]
pub enum Order {
    /// One after the other.
    Round,
    /// So many draws by Zipf's law: the second is asked for half as often as the first, the third a third as often.
    Zipf(usize),
    /// So many draws, each ticket as likely as another.
    Uniform(usize),
}

impl Order {
    /// The numbers of the tickets, of `count` in all.
    pub fn numbers(self, count: u64) -> Vec<u64> {
        let mut random = Random(0x7469_636b_6574);
        match self {
            Self::Round => (0..count).collect(),
            Self::Uniform(draws) => (0..draws).map(|_| random.next() % count).collect(),
            Self::Zipf(draws) => {
                let mut sum = 0.0;
                let shares: Vec<f64> = (1..=count)
                    .map(|rank| {
                        sum += 1.0 / rank as f64;
                        sum
                    })
                    .collect();
                let draw = |at: f64| shares.partition_point(|share| *share < at) as u64;
                (0..draws).map(|_| draw(random.fraction() * sum).min(count - 1)).collect()
            }
        }
    }
}
