//! Creates pictures for the tests, and reads the contents of generated ones.

use std::collections::BTreeMap;
use std::io::{Cursor, Write};

use image::{ImageFormat, Rgb, RgbImage};
use md5::Md5;
use sha2::{Digest, Sha256};

/// One example of a dataset: a file and its caption.
#[derive(Debug, Clone)]
pub struct Photo {
    pub name: String,
    pub caption: String,
    pub bytes: Vec<u8>,
}

/// `count` different PNGs of 64×64 pixels: discs of one colour, each with its caption.
pub fn discs(count: usize) -> Vec<Photo> {
    let colours =
        [("red", [220, 40, 40]), ("green", [40, 180, 60]), ("blue", [40, 70, 210]), ("yellow", [240, 210, 40])];
    (0..count)
        .map(|index| {
            let (colour, rgb) = colours[index % colours.len()];
            let radius = 12 + 5 * (index / colours.len()) as i32 + index as i32;
            Photo {
                name: format!("disc-{index}.png"),
                caption: format!("a {colour} disc of radius {radius}"),
                bytes: png(&disc(radius, rgb)),
            }
        })
        .collect()
}

fn disc(radius: i32, rgb: [u8; 3]) -> RgbImage {
    RgbImage::from_fn(64, 64, |x, y| {
        let (dx, dy) = (x as i32 - 32, y as i32 - 32);
        if dx * dx + dy * dy <= radius * radius { Rgb(rgb) } else { Rgb([250, 250, 250]) }
    })
}

/// PNG bytes of a picture.
pub fn png(picture: &RgbImage) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, ImageFormat::Png).expect("encodes");
    bytes.into_inner()
}

/// A PNG that claims `width`×`height` and contains almost nothing: a header, one empty data chunk, an end.
pub fn claimed_png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut header = Vec::new();
    header.extend(width.to_be_bytes());
    header.extend(height.to_be_bytes());
    header.extend([8, 2, 0, 0, 0]);
    for (kind, data) in
        [(b"IHDR", header.as_slice()), (b"IDAT", [0x78, 0x9c, 0x03, 0, 0, 0, 0, 1].as_slice()), (b"IEND", &[])]
    {
        bytes.extend(u32::try_from(data.len()).expect("short").to_be_bytes());
        bytes.extend(kind);
        bytes.extend(data);
        bytes.extend(crc32(&[kind.as_slice(), data].concat()).to_be_bytes());
    }
    bytes
}

/// CRC-32 of ISO 3309, as PNG uses it.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

/// A zip of `photo.png` + `photo.txt` pairs.
pub fn archive(photos: &[Photo]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for photo in photos {
        let options = zip::write::SimpleFileOptions::default();
        zip.start_file(&photo.name, options).expect("zip");
        zip.write_all(&photo.bytes).expect("zip");
        zip.start_file(photo.name.replace(".png", ".txt"), options).expect("zip");
        zip.write_all(photo.caption.as_bytes()).expect("zip");
    }
    zip.finish().expect("zip").into_inner()
}

/// A zip of one entry of `megabytes` zeros, which compresses to about a thousandth.
pub fn zip_bomb(name: &str, megabytes: usize) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    zip.start_file(name, zip::write::SimpleFileOptions::default()).expect("zip");
    let zeros = vec![0; 1 << 20];
    for _ in 0..megabytes {
        zip.write_all(&zeros).expect("zip");
    }
    zip.finish().expect("zip").into_inner()
}

/// The pixels of an encoded picture.
pub fn pixels(bytes: &[u8]) -> RgbImage {
    image::load_from_memory(bytes).expect("a picture").to_rgb8()
}

/// Text chunks (tEXt and uncompressed iTXt) of a PNG by keyword.
pub fn texts(png: &[u8]) -> BTreeMap<String, String> {
    assert_eq!(&png[..8], b"\x89PNG\r\n\x1a\n", "a PNG");
    let mut found = BTreeMap::new();
    let mut rest = &png[8..];
    while rest.len() >= 12 {
        let length = u32::from_be_bytes(rest[..4].try_into().expect("four bytes")) as usize;
        let (kind, data) = (&rest[4..8], &rest[8..8 + length]);
        if let Some(end) = data.iter().position(|byte| *byte == 0) {
            let keyword = String::from_utf8_lossy(&data[..end]).into_owned();
            match kind {
                // Latin-1 by the specification.
                b"tEXt" => {
                    found.insert(keyword, data[end + 1..].iter().map(|byte| char::from(*byte)).collect());
                }
                // keyword \0 compressed? method language \0 translated keyword \0 text
                b"iTXt" => {
                    let text = data[end + 3..].splitn(3, |byte| *byte == 0).nth(2).expect("iTXt has three parts");
                    found.insert(keyword, String::from_utf8(text.to_vec()).expect("iTXt is UTF-8"));
                }
                _ => {}
            }
        }
        rest = &rest[12 + length..];
    }
    found
}

/// Lower-case hexadecimal sha256.
pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Lower-case hexadecimal md5.
pub fn md5(bytes: &[u8]) -> String {
    hex::encode(Md5::digest(bytes))
}
