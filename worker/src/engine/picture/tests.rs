//! Files are read back with decoders of other crates, not with the code that wrote them.

use std::io::Cursor;
use std::path::PathBuf;

use diffusion::WeightStorage;
use formats::{Guidance, Scheduler};
use image::codecs::jpeg::JpegDecoder;
use image::codecs::webp::WebPDecoder;
use image::{ImageDecoder, RgbImage};
use md5::{Digest, Md5};
use requests::{GenerationParams, PromptSyntax};
use serde_json::Value;

use super::*;
use crate::protocol::{Adapter, Base, Generate, LocalPicture};

fn order(prompt: &str) -> Generate {
    Generate {
        request: 1,
        base: Base { folder: "/m".into(), name: "ember".into(), sha256: "ab".repeat(32) },
        loras: vec![Adapter {
            path: "/l".into(),
            name: "ink".into(),
            sha256: "cd".repeat(32),
            scale: 0.5,
            text_encoder_scale: None,
        }],
        params: GenerationParams {
            negative_prompt: Some("blurry".into()),
            guidance_scale: 3.5,
            ..GenerationParams::new(prompt, 4, [32, 16])
        },
        seed: 7,
        vae_approx: None,
        output_dir: "/o".into(),
    }
}

fn flux() -> Made {
    Made { scheduler: "Euler".into(), guidance: Guidance::Distilled, weights: WeightStorage::Full }
}

fn picture() -> RgbImage {
    RgbImage::from_fn(32, 16, |x, y| image::Rgb([8 * x as u8, 16 * y as u8, 128]))
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// The bytes of a new file.
    fn write(&self, format: OutputFormat, quality: Option<u8>, metadata: &Metadata) -> Vec<u8> {
        let path: PathBuf = self.0.path().join(format!("{}", std::fs::read_dir(self.0.path()).unwrap().count()));
        write(&path, &picture(), format, quality, metadata).unwrap();
        std::fs::read(path).unwrap()
    }
}

/// The metadata of a file: parameters and recipe.
fn texts(format: OutputFormat, bytes: &[u8]) -> (String, Value) {
    let (exif, xmp) = match format {
        OutputFormat::Png => return png_texts(bytes),
        OutputFormat::Jpeg => {
            let mut decoder = JpegDecoder::new(Cursor::new(bytes)).unwrap();
            (decoder.exif_metadata().unwrap().unwrap(), decoder.xmp_metadata().unwrap().unwrap())
        }
        OutputFormat::Webp => {
            let mut decoder = WebPDecoder::new(Cursor::new(bytes)).unwrap();
            (decoder.exif_metadata().unwrap().unwrap(), decoder.xmp_metadata().unwrap().unwrap())
        }
    };
    (user_comment(&exif), recipe_in(std::str::from_utf8(&xmp).unwrap()))
}

fn png_texts(bytes: &[u8]) -> (String, Value) {
    let reader = ::png::Decoder::new(Cursor::new(bytes)).read_info().unwrap();
    let info = reader.info();
    let find = |keyword: &str| {
        let plain = info.uncompressed_latin1_text.iter().find(|c| c.keyword == keyword).map(|c| c.text.clone());
        plain.unwrap_or_else(|| info.utf8_text.iter().find(|c| c.keyword == keyword).unwrap().get_text().unwrap())
    };
    (find("parameters"), serde_json::from_str(&find("pyrograph")).unwrap())
}

/// Follows the directories of a big-endian TIFF block, as piexif does.
fn user_comment(tiff: &[u8]) -> String {
    assert!(tiff.starts_with(b"MM\0\x2a"));
    let short = |at: usize| usize::from(u16::from_be_bytes([tiff[at], tiff[at + 1]]));
    let long = |at: usize| u32::from_be_bytes([tiff[at], tiff[at + 1], tiff[at + 2], tiff[at + 3]]) as usize;
    let entry = |directory: usize, tag: usize| {
        let found = (0..short(directory)).map(|number| directory + 2 + 12 * number).find(|at| short(*at) == tag);
        found.unwrap_or_else(|| panic!("no tag {tag:x}"))
    };
    let exif_ifd = long(entry(long(4), 0x8769) + 8);
    let comment = entry(exif_ifd, 0x9286);
    let value = &tiff[long(comment + 8)..][..long(comment + 4)];
    let letters = value.strip_prefix(b"UNICODE\0").unwrap();
    let letters: Vec<u16> = letters.chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
    String::from_utf16(&letters).unwrap()
}

fn recipe_in(xmp: &str) -> Value {
    let (_, rest) = xmp.split_once("<pyrograph:recipe xmlns:pyrograph=\"urn:pyrograph:1.0/\">").unwrap();
    let (json, _) = rest.split_once("</pyrograph:recipe>").unwrap();
    let json = json.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    serde_json::from_str(&json).unwrap()
}

#[test]
fn a_picture_of_every_format_tells_how_it_was_made() {
    let folder = Folder::new();
    for format in OutputFormat::ALL {
        for prompt in ["a fox, café <b> & \"c\"", "狐 on a hill 🦊\r\nin the \u{1}rain"] {
            let metadata = metadata(&order(prompt), &flux(), 9);
            let bytes = folder.write(format, None, &metadata);
            assert!(image::load_from_memory(&bytes).unwrap().width() == 32);
            let (parameters, recipe) = texts(format, &bytes);
            let start =
                format!("{prompt} <lora:ink:0.5>\nNegative prompt: blurry\nSteps: 4, Sampler: Euler, CFG scale: 1,");
            assert!(parameters.starts_with(&start), "{parameters}");
            assert!(parameters.contains("Seed: 9, Size: 32x16, Model hash: ababababab, Model: ember"), "{parameters}");
            assert!(!parameters.contains("Weights"), "the usual is left out");
            assert_eq!(recipe["prompt"], prompt);
            assert_eq!(recipe["seed"], 9);
            assert_eq!(recipe["weights"], "full");
            assert_eq!(recipe["loras"][0]["sha256"], "cd".repeat(32));
        }
    }
}

/// The other tests read with foreign decoders; this one with the reader of the service.
#[test]
fn the_service_reads_what_is_written() {
    let folder = Folder::new();
    let long = "🦊<&\\\"".repeat(2000);
    for (prompt, syntax) in [
        ("a fox, café <b> & \"c\"\r\n\u{1}", PromptSyntax::A1111),
        ("狐 <lora:ink:0.5>", PromptSyntax::A1111),
        ("狐 <lora:ink:0.5> (plain)", PromptSyntax::Plain),
        (&long, PromptSyntax::Plain),
    ] {
        let mut order = order(prompt);
        order.params.prompt_syntax = syntax;
        order.loras[0].text_encoder_scale = Some(0.25);
        for format in OutputFormat::ALL {
            let bytes = folder.write(format, None, &metadata(&order, &flux(), 9));
            let found = requests::recipe::read(&formats::picture::texts(&bytes).unwrap());
            assert_eq!((found.program, found.unmapped), (Some(requests::recipe::Program::Pyrograph), Vec::new()));
            let settings = found.settings;
            assert_eq!(
                (settings.prompt.as_deref(), settings.prompt_syntax),
                (Some(prompt), Some(syntax)),
                "{format:?}"
            );
            assert_eq!((settings.seed, settings.negative_prompt.as_deref()), (Some(9), Some("blurry")));
            assert_eq!((settings.loras[0].scale, settings.loras[0].text_encoder_scale), (0.5, Some(0.25)));
        }
    }
}

#[test]
fn damaged_files_yield_less_and_stop_nothing() {
    let folder = Folder::new();
    let whole = metadata(&order("a fox, 狐"), &flux(), 9);
    for format in OutputFormat::ALL {
        let bytes = folder.write(format, None, &whole);
        let read = |bytes: &[u8]| formats::picture::texts(bytes).map(|texts| requests::recipe::read(&texts));
        let expected = read(&bytes).unwrap();
        let mut complete = 0;
        for at in 0..bytes.len() {
            complete += usize::from(read(&bytes[..at]).is_some_and(|found| found.settings == expected.settings));
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x55;
            let _ = read(&damaged);
        }
        assert!(complete < bytes.len() - 200, "{format:?}: the texts are read from the file");
    }
}

/// A1111 would apply a LoRA twice that the text names twice.
#[test]
fn a_lora_of_the_prompt_is_written_once() {
    let text = metadata(&order("<lora:ink:0.5> a fox"), &flux(), 9).parameters;
    assert!(text.starts_with("a fox <lora:ink:0.5>\nNegative"), "{text}");
    let mut order = order("a <b> fox <lora:other:1>");
    order.params.prompt_syntax = PromptSyntax::Plain;
    let text = metadata(&order, &flux(), 9).parameters;
    assert!(text.starts_with("a <b> fox <lora:other:1> <lora:ink:0.5>\n"), "{text}");
    assert!(text.contains(", Prompt syntax: plain"), "{text}");
}

#[test]
fn a_recipe_is_the_request_for_this_picture_alone() {
    let mut order = order("a fox");
    let params = &mut order.params;
    (params.num_images, params.preview_every) = (4, Some(2));
    (params.scheduler, params.strength) = (Some(Scheduler::FlowMatchEuler), Some(0.5));
    params.image = Some(LocalPicture { path: "/secret".into(), sha256: "ef".repeat(32) });
    let Metadata { parameters, recipe } = metadata(&order, &flux(), 9);
    assert!(!recipe.contains("/secret"));
    let recipe: Value = serde_json::from_str(&recipe).unwrap();
    let params: GenerationParams<Value> = serde_json::from_value(recipe.clone()).unwrap();
    let expected = GenerationParams {
        num_images: 1,
        preview_every: None,
        ..order.params.with_pictures(Some(serde_json::json!({"sha256": "ef".repeat(32)})), None)
    };
    assert_eq!(params, expected);
    assert_eq!(recipe["source"]["image_sha256"], "ef".repeat(32), "the name in older files");
    assert!(parameters.contains("Sampler: Euler, ") && parameters.contains(", Denoising strength: 0.5"));
}

#[test]
fn stable_diffusion_tells_its_own_sampler() {
    let mut order = order("a fox");
    let made = Made { scheduler: "PLMS".into(), guidance: Guidance::ClassifierFree, weights: WeightStorage::Int8 };
    let parameters = |order: &Generate| metadata(order, &made, 9).parameters;
    assert!(parameters(&order).contains("Steps: 4, Sampler: PLMS, CFG scale: 3.5, Seed: 9"));
    (order.params.scheduler, order.params.clip_skip) = (Some(Scheduler::Dpmpp2mKarras), Some(1));
    let text = parameters(&order);
    assert!(text.contains("Sampler: DPM++ 2M Karras,") && text.contains("Clip skip: 2"), "{text}");
    assert!(text.contains(", Weights: int8, Version:"), "{text}");
}

#[test]
fn the_same_request_writes_the_same_bytes() {
    let folder = Folder::new();
    let metadata = metadata(&order("a fox"), &flux(), 7);
    for format in OutputFormat::ALL {
        assert_eq!(folder.write(format, None, &metadata), folder.write(format, None, &metadata));
    }
}

#[test]
fn quality_decides_how_much_is_lost() {
    let folder = Folder::new();
    let metadata = metadata(&order("a fox"), &flux(), 7);
    let lost = |format, quality| {
        let bytes = folder.write(format, quality, &metadata);
        let read = image::load_from_memory(&bytes).unwrap().to_rgb8();
        let pairs = read.as_raw().iter().zip(picture().into_raw());
        pairs.map(|(read, meant)| u32::from(read.abs_diff(meant))).sum::<u32>()
    };
    for format in [OutputFormat::Jpeg, OutputFormat::Webp] {
        let [low, usual] = [5, 90].map(|quality| lost(format, Some(quality)));
        assert!(low > usual && usual > 0, "{format:?}: {low}, {usual}");
        assert_eq!(lost(format, None), usual);
    }
    assert_eq!((lost(OutputFormat::Webp, Some(100)), lost(OutputFormat::Png, None)), (0, 0));
}

/// A reader that adds up chunk lengths without the padding byte of odd chunks does not lose its position.
#[test]
fn chunks_of_webp_have_even_lengths() {
    let folder = Folder::new();
    for (prompt, quality) in ["a", "ab", "abc"].into_iter().flat_map(|prompt| [(prompt, 90), (prompt, 100)]) {
        let bytes = folder.write(OutputFormat::Webp, Some(quality), &metadata(&order(prompt), &flux(), 7));
        let (mut at, mut kinds) = (12, Vec::new());
        while at < bytes.len() {
            kinds.push(String::from_utf8(bytes[at..at + 4].to_vec()).unwrap());
            let length = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap());
            assert_eq!(length % 2, 0);
            at += 8 + length as usize;
        }
        assert_eq!(at, bytes.len());
        assert_eq!(kinds, ["VP8X", if quality == 100 { "VP8L" } else { "VP8 " }, "EXIF", "XMP "]);
    }
}

/// Joins the parts as a reader that follows `xmpNote:HasExtendedXMP` does.
#[test]
fn a_long_recipe_goes_into_extended_xmp() {
    let folder = Folder::new();
    let prompt = "🦊<&".repeat(3333);
    let mut order = order(&prompt);
    order.params.negative_prompt = Some("&".repeat(10_000));
    let metadata = metadata(&order, &flux(), 7);
    let bytes = folder.write(OutputFormat::Jpeg, None, &metadata);
    let mut decoder = JpegDecoder::new(Cursor::new(&bytes)).unwrap();
    assert_eq!(user_comment(&decoder.exif_metadata().unwrap().unwrap()), metadata.parameters);
    let xmp = String::from_utf8(decoder.xmp_metadata().unwrap().unwrap()).unwrap();
    let (_, rest) = xmp.split_once("<xmpNote:HasExtendedXMP").unwrap();
    let guid = &rest.split_once('>').unwrap().1[..32];
    let (mut at, mut extension) = (2, Vec::new());
    while bytes[at + 1] != 0xda {
        let length = usize::from(u16::from_be_bytes([bytes[at + 2], bytes[at + 3]]));
        let content = &bytes[at + 4..at + 2 + length];
        if let Some(part) = content.strip_prefix(b"http://ns.adobe.com/xmp/extension/\0") {
            assert_eq!(&part[..32], guid.as_bytes());
            assert_eq!(u32::from_be_bytes(part[36..40].try_into().unwrap()) as usize, extension.len());
            extension.extend_from_slice(&part[40..]);
        }
        at += 2 + length;
    }
    assert_eq!(hex::encode_upper(Md5::digest(&extension)), guid);
    assert_eq!(recipe_in(std::str::from_utf8(&extension).unwrap())["prompt"], prompt);
}

#[test]
fn text_that_does_not_fit_into_exif_is_left_out() {
    let folder = Folder::new();
    let mut order = order(&"🦊".repeat(10_000));
    order.params.negative_prompt = Some("🐻".repeat(10_000));
    let bytes = folder.write(OutputFormat::Jpeg, None, &metadata(&order, &flux(), 7));
    let mut decoder = JpegDecoder::new(Cursor::new(&bytes)).unwrap();
    assert_eq!(decoder.exif_metadata().unwrap(), None);
    assert!(decoder.xmp_metadata().unwrap().is_some());
    let webp = folder.write(OutputFormat::Webp, None, &metadata(&order, &flux(), 7));
    assert_eq!(texts(OutputFormat::Webp, &webp).1["prompt"], order.params.prompt);
}
