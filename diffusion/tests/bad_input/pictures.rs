//! Pictures as cameras and programs write them, against what Pillow reads (`picture_goldens.py`).
//!
//! Tolerance: 4 levels of a byte for JPEG, whose rounding differs between decoders; none for PNG.

use diffusion::PictureRequest;
use diffusion::image::{read, read_mask, stretch};
use image::{GrayImage, Luma, Rgb, RgbImage};
use safetensors::SafeTensors;

use crate::{golden, load, picture, request};

#[test]
fn turned_four_inks_grey_and_transparent() {
    let reference = std::fs::read(golden("pictures/reference.safetensors")).unwrap();
    let reference = SafeTensors::deserialize(&reference).unwrap();
    assert_eq!(reference.len(), 6);
    for (name, expected) in reference.tensors() {
        let end = if name == "alpha" { "png" } else { "jpg" };
        let made = read(&golden(&format!("pictures/{name}.{end}"))).unwrap();
        assert_eq!([made.height() as usize, made.width() as usize, 3], expected.shape(), "{name}");
        let levels = expected.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]) as u8);
        let furthest = made.as_raw().iter().zip(levels).map(|(made, there)| made.abs_diff(there)).max().unwrap();
        assert!(furthest <= if end == "png" { 0 } else { 4 }, "{name} is {furthest} levels off");
    }
}

/// A mask is resized to the output size, like the source picture.
#[test]
fn a_mask_of_another_size_is_stretched() {
    let pipeline = load(&golden("sd15-tiny")).unwrap();
    let photo = RgbImage::from_fn(32, 32, |x, y| Rgb([x as u8 * 8, y as u8 * 8, 90]));
    let small = GrayImage::from_fn(5, 3, |x, _| Luma([if x < 2 { 0 } else { 255 }]));
    let with = |mask: GrayImage| PictureRequest {
        image: Some(photo.clone()),
        mask: Some(mask),
        strength: 1.0,
        ..request(&pipeline)
    };
    let made = picture(&pipeline, &with(small.clone())).unwrap();
    assert_eq!(made, picture(&pipeline, &with(stretch(&small, 32, 32))).unwrap());
    let all = GrayImage::from_pixel(900, 2, Luma([255]));
    assert_ne!(made, picture(&pipeline, &with(all)).unwrap());
    // Transparent areas of a mask count as white.
    assert_eq!(read_mask(&golden("pictures/alpha.png")).unwrap().get_pixel(0, 0).0, [255]);
}

#[test]
fn one_pixel_is_a_picture() {
    let pipeline = load(&golden("sd15-tiny")).unwrap();
    let pixel = RgbImage::from_pixel(1, 1, Rgb([200, 30, 30]));
    let begun = PictureRequest { image: Some(pixel.clone()), strength: 0.7, ..request(&pipeline) };
    let even = PictureRequest { image: Some(RgbImage::from_pixel(32, 32, *pixel.get_pixel(0, 0))), ..begun.clone() };
    assert_eq!(picture(&pipeline, &begun).unwrap(), picture(&pipeline, &even).unwrap());
    let masked = PictureRequest { mask: Some(GrayImage::from_pixel(1, 1, Luma([255]))), strength: 1.0, ..begun };
    assert_eq!(picture(&pipeline, &masked).unwrap().dimensions(), (32, 32));
}
