use super::*;

fn known(key: &str) -> (Network, Vec<(String, Share)>, Part) {
    match parse(key) {
        Key::Known { module, part } => (module.network, module.targets, part),
        other => panic!("{key}: {other:?}"),
    }
}

fn flux(key: &str) -> (Vec<(String, Share)>, Part) {
    let (network, targets, part) = known(key);
    assert_eq!(network, Network::Transformer, "{key}");
    (targets, part)
}

fn whole(path: &str) -> Vec<(String, Share)> {
    vec![(path.to_owned(), Share::Whole)]
}

fn dialect_of(key: &str) -> Dialect {
    match parse(key) {
        Key::Known { module, .. } => module.dialect,
        other => panic!("{key}: {other:?}"),
    }
}

#[test]
fn every_spelling_of_one_layer_is_the_same_layer() {
    let wanted = whole("transformer_blocks.3.attn.to_out.0");
    for (key, dialect) in [
        ("transformer.transformer_blocks.3.attn.to_out.0.lora_A.weight", Dialect::Peft),
        ("transformer.transformer_blocks.3.attn.to_out.0.lora.down.weight", Dialect::DiffusersLegacy),
        ("base_model.model.transformer_blocks.3.attn.to_out.0.lora_A.default.weight", Dialect::Peft),
        ("transformer_blocks.3.attn.to_out.0.lora_A.weight", Dialect::Peft),
        ("diffusion_model.double_blocks.3.img_attn.proj.lora_A.weight", Dialect::Comfy),
        ("base_model.model.double_blocks.3.img_attn.proj.lora_A.weight", Dialect::Comfy),
        ("lora_unet_double_blocks_3_img_attn_proj.lora_down.weight", Dialect::Kohya),
        ("lora_transformer_transformer_blocks_3_attn_to_out_0.lora_down.weight", Dialect::OneTrainer),
        ("lora_unet_transformer_blocks_3_attn_to_out_0.lora_down.weight", Dialect::Kohya),
        ("transformer.double_blocks.3.img_attn.proj.lora_down.weight", Dialect::OneTrainer),
        ("double_blocks.3.processor.proj_lora1.down.weight", Dialect::Xlabs),
        ("diffusion_model.double_blocks.3.processor.proj_lora1.down.weight", Dialect::Xlabs),
    ] {
        assert_eq!(flux(key), (wanted.clone(), Part::Down), "{key}");
        assert_eq!(dialect_of(key), dialect, "{key}");
    }
    assert_eq!(flux("lora_unet_double_blocks_3_img_attn_proj.alpha"), (wanted.clone(), Part::Alpha));
    assert_eq!(flux("lycoris_transformer_blocks_3_attn_to_out_0.lokr_w1"), (wanted, Part::LokrW1));
}

#[test]
fn fused_layers_are_cut_in_order() {
    let third = |from| Share::Parts { from, count: 1, of: 3 };
    let wanted = [
        ("transformer_blocks.0.attn.add_q_proj".to_owned(), third(0)),
        ("transformer_blocks.0.attn.add_k_proj".to_owned(), third(1)),
        ("transformer_blocks.0.attn.add_v_proj".to_owned(), third(2)),
    ];
    for key in
        ["lora_unet_double_blocks_0_txt_attn_qkv.lora_up.weight", "double_blocks.0.processor.qkv_lora2.up.weight"]
    {
        let (targets, part) = flux(key);
        assert_eq!((targets.as_slice(), part), (wanted.as_slice(), Part::Up), "{key}");
    }
    let (targets, _) = flux("diffusion_model.single_blocks.37.linear1.lora_B.weight");
    let mlp = ("single_transformer_blocks.37.proj_mlp".to_owned(), Share::Parts { from: 3, count: 4, of: 7 });
    assert_eq!(targets[3], mlp);
    let (targets, _) = flux("single_blocks.4.processor.qkv_lora.up.weight");
    assert_eq!(targets[1], ("single_transformer_blocks.4.attn.to_k".to_owned(), third(1)));
}

#[test]
fn counted_parts_of_fused_layers_are_layers() {
    let key = "transformer.double_blocks.0.img_attn.qkv.1.lora_down.weight";
    assert_eq!(flux(key).0, whole("transformer_blocks.0.attn.to_k"));
    let key = "transformer.single_blocks.2.linear1.3.lora_up.weight";
    assert_eq!(flux(key).0, whole("single_transformer_blocks.2.proj_mlp"));
    assert!(matches!(parse("transformer.double_blocks.0.img_attn.qkv.3.lora_down.weight"), Key::Other { .. }));
}

#[test]
fn the_last_norm_is_kept_in_the_other_order() {
    let swapped = vec![("norm_out.linear".to_owned(), Share::HalvesSwapped)];
    assert_eq!(flux("diffusion_model.final_layer.adaLN_modulation.1.lora_B.weight").0, swapped);
    assert_eq!(flux("lora_unet_final_layer_adaLN_modulation_1.lora_up.weight").0, swapped);
    assert_eq!(flux("transformer.norm_out.linear.lora_B.weight").0, whole("norm_out.linear"));
}

#[test]
fn unets_in_every_dialect() {
    let path = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0";
    for key in [
        "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_out_0.lora_down.weight",
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_out_0.lora_down.weight",
        "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0.lora_A.weight",
        "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0.lora.down.weight",
        "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora.down.weight",
        "down_blocks.1.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora.down.weight",
        "unet.base_model.model.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0.lora_A.default.weight",
        "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_out.0.lora_A.weight",
        "lycoris_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_out_0.lora_down.weight",
    ] {
        assert_eq!(known(key), (Network::Unet, whole(path), Part::Down), "{key}");
    }
}

#[test]
fn text_encoders_in_every_dialect() {
    let path = "text_model.encoder.layers.2.self_attn.out_proj";
    for key in [
        "lora_te_text_model_encoder_layers_2_self_attn_out_proj.lora_up.weight",
        "lora_te1_text_model_encoder_layers_2_self_attn_out_proj.lora_up.weight",
        "text_encoder.text_model.encoder.layers.2.self_attn.out_proj.lora_B.weight",
        "text_encoder.text_model.encoder.layers.2.self_attn.out_proj.lora_linear_layer.up.weight",
        "text_encoder.text_model.encoder.layers.2.self_attn.to_out_lora.up.weight",
        "text_encoders.clip_l.transformer.text_model.encoder.layers.2.self_attn.out_proj.lora_B.weight",
    ] {
        assert_eq!(known(key), (Network::TextEncoder, whole(path), Part::Up), "{key}");
    }
    for key in [
        "lora_te2_text_model_encoder_layers_2_self_attn_out_proj.lora_up.weight",
        "text_encoder_2.text_model.encoder.layers.2.self_attn.out_proj.lora_B.weight",
    ] {
        assert_eq!(known(key).0, Network::TextEncoder2, "{key}");
    }
    let t5 = known("lora_te3_encoder_block_0_layer_0_SelfAttention_q.lora_down.weight");
    assert_eq!(t5, (Network::TextEncoder2, whole("encoder.block.0.layer.0.SelfAttention.q"), Part::Down));
}

#[test]
fn other_families_are_not_ours() {
    assert!(matches!(parse("transformer.transformer_blocks.0.attn2.to_q.lora_A.weight"), Key::Other { .. }));
    assert!(matches!(parse("lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight"), Key::Other { .. }));
    let refusal = |name: &str| not_known([name.to_owned()].iter());
    assert!(refusal("model.diffusion_model.out.2.weight").starts_with("it is no LoRA"));
    assert!(refusal("lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight").contains("Stable Diffusion 3"));
    let unknown = refusal("transformer.single_transformer_blocks.0.attn.to_kk.lora_A.weight");
    assert!(unknown.contains("unknown, such as transformer.single_transformer_blocks.0.attn.to_kk"), "{unknown}");
}

#[test]
fn other_algorithms_are_named() {
    let module = "lora_unet_double_blocks_0_img_attn_qkv";
    for (tensor, name) in [("oft_blocks", "OFT or BOFT"), ("a1.weight", "GLoRA"), ("on_input", "IA3")] {
        assert_eq!(parse(&format!("{module}.{tensor}")), Key::Unsupported(name));
    }
}

#[test]
fn norms_are_known_by_each_of_their_names() {
    for (key, path) in [
        ("diffusion_model.double_blocks.0.img_attn.norm.key_norm.scale.diff", "transformer_blocks.0.attn.norm_k"),
        ("diffusion_model.double_blocks.0.txt_attn.norm.query_norm.diff", "transformer_blocks.0.attn.norm_added_q"),
        ("lora_unet_single_blocks_3_norm_key_norm.w_norm", "single_transformer_blocks.3.attn.norm_k"),
        ("diffusion_model.middle_block.0.in_layers.0.diff", "mid_block.resnets.0.norm1"),
        ("diffusion_model.out.0.diff", "conv_norm_out"),
        ("lora_unet_mid_block_attentions_0_norm.w_norm", "mid_block.attentions.0.norm"),
        (
            "lora_unet_mid_block_attentions_0_transformer_blocks_0_norm3.diff",
            "mid_block.attentions.0.transformer_blocks.0.norm3",
        ),
        ("lora_te_text_model_final_layer_norm.w_norm", "text_model.final_layer_norm"),
        (
            "text_encoders.clip_l.transformer.text_model.encoder.layers.0.layer_norm1.diff",
            "text_model.encoder.layers.0.layer_norm1",
        ),
        ("lora_te3_encoder_block_0_layer_1_layer_norm.w_norm", "encoder.block.0.layer.1.layer_norm"),
    ] {
        let (_, targets, part) = known(key);
        assert_eq!((targets, part), (whole(path), Part::Diff), "{key}");
        assert!(is_norm(path), "{path}");
    }
    let (_, _, part) = known("lora_unet_mid_block_attentions_0_norm.b_norm");
    assert_eq!(part, Part::DiffBias);
    for path in ["transformer_blocks.0.norm1.linear", "norm_out.linear", "mid_block.attentions.0.proj_in"] {
        assert!(!is_norm(path), "{path}");
    }
    let control = "double_blocks.0.img_attn.norm.query_norm.scale";
    assert!(matches!(parse(control), Key::Unsupported(kind) if kind.contains("control")));
}

#[test]
fn an_underscore_behind_a_flat_name_changes_nothing() {
    for name in ["single_transformer_blocks_0_attn_to_k_", "single_transformer_blocks_0_attn_to_k"] {
        let (targets, _) = flux(&format!("lora_unet_{name}.lora_down.weight"));
        assert_eq!(targets, whole("single_transformer_blocks.0.attn.to_k"));
    }
    assert_eq!(
        known("lora_te_text_model_encoder_layers_0_mlp_fc1_.alpha").1,
        whole("text_model.encoder.layers.0.mlp.fc1")
    );
}

/// Random names, combined from all meaningful parts and from noise.
#[test]
fn no_name_makes_the_parser_panic() {
    let suffixes = SUFFIXES.map(|(suffix, _)| suffix);
    let marks = UNSUPPORTED.map(|(mark, _)| mark);
    let pieces: Vec<&str> = [
        "lora_unet_",
        "lora_te1_",
        "lora_te3_",
        "transformer.",
        "unet.",
        "base_model.model.",
        "diffusion_model.",
        "double_blocks",
        "single_blocks",
        "linear1",
        "img_attn",
        "qkv",
        "input_blocks",
        "output_blocks",
        "middle_block",
        "up_blocks",
        "upsamplers",
        "conv",
        "op",
        ".processor.",
        "qkv_lora1",
        "text_model",
        "encoder",
        "0",
        "7",
        "99999999999999999999999",
        "_",
        ".",
        "",
        "ü",
        "attn1",
        "to_out",
        "\u{0}",
    ]
    .into_iter()
    .chain(suffixes)
    .chain(marks)
    .collect();
    let mut state = 7u64;
    let mut draw = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for _ in 0..100_000 {
        let name: String = (0..=draw(9)).map(|_| pieces[draw(pieces.len())]).collect();
        let known = matches!(parse(&name), Key::Known { .. });
        assert!(!known || !name.contains('ü'), "{name}");
    }
}

/// Paths of all linear layers, convolutions and norms of a real, full-size network.
fn layers(list: &str) -> Vec<String> {
    let file = format!("{}/../diffusion/tests/goldens/keys/{list}.txt", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(file).unwrap();
    // The scale of a FLUX.1 norm has no other parameter beside it.
    let weights = text.lines().filter_map(|line| {
        let (key, _) = line.split_once(' ')?;
        key.strip_suffix(".weight").or_else(|| key.strip_suffix(".scale")).map(str::to_owned)
    });
    let layers: Vec<_> = weights.filter(|path| !path.contains("embedding") || path.contains("linear_")).collect();
    assert!(layers.len() > 60, "{list}");
    layers
}

fn only_target(key: &str) -> (Network, String) {
    let (network, targets, _) = known(key);
    assert_eq!(targets.len(), 1, "{key}");
    (network, targets[0].0.clone())
}

#[test]
fn every_layer_of_the_real_unets_is_known_by_each_of_its_names() {
    for (list, single, xl) in
        [("sd1.unet", "sd1.single", false), ("sd2.unet", "sd2.single", false), ("sdxl.unet", "sdxl.single", true)]
    {
        let (paths, originals) = (layers(list), layers(single));
        let mut names = std::collections::BTreeSet::new();
        for path in &paths {
            let wanted = (Network::Unet, path.clone());
            let original = unet::to_original(path, xl).unwrap();
            assert!(originals.contains(&format!("model.diffusion_model.{original}")), "{path} is not {original}");
            let flat = [path, &original].map(|name| format!("lora_unet_{}", name.replace('.', "_")));
            for name in flat.iter().chain(&[format!("unet.{path}"), format!("diffusion_model.{original}")]) {
                assert_eq!(only_target(&format!("{name}.alpha")), wanted, "{name}");
            }
            names.extend(flat);
        }
        assert_eq!(names.len(), 2 * paths.len(), "no two layers have one name");
    }
}

#[test]
fn every_layer_of_the_real_flux_is_known_by_each_of_its_names() {
    let (paths, originals) = (layers("flux_dev.transformer"), layers("flux_dev.single"));
    let mut flat_names = std::collections::BTreeSet::new();
    for path in &paths {
        let flat = path.replace('.', "_");
        for name in [format!("lora_transformer_{flat}"), format!("lycoris_{flat}"), format!("transformer.{path}")] {
            assert_eq!(only_target(&format!("{name}.alpha")), (Network::Transformer, path.clone()), "{name}");
        }
        flat_names.insert(flat);
    }
    assert_eq!(flat_names.len(), paths.len());
    let mut covered = Vec::new();
    for original in &originals {
        let flat = known(&format!("lora_unet_{}.alpha", original.replace('.', "_")));
        assert_eq!(flat, known(&format!("diffusion_model.{original}.alpha")), "{original}");
        covered.extend(flat.1.into_iter().map(|(path, _)| path));
    }
    covered.sort();
    assert_eq!(covered, paths, "the original layers are ours, each once");
}

#[test]
fn every_layer_of_the_real_text_encoders_is_known_by_each_of_its_names() {
    for (list, prefix, dotted, network) in [
        ("clip_l", "lora_te_", "text_encoder", Network::TextEncoder),
        ("t5_xxl", "lora_te3_", "text_encoder_2", Network::TextEncoder2),
    ] {
        for path in
            layers(list).into_iter().filter(|path| path != "shared" && !path.ends_with("relative_attention_bias"))
        {
            let flat = format!("{prefix}{}.alpha", path.replace('.', "_"));
            assert_eq!(only_target(&flat), (network, path.clone()));
            assert_eq!(only_target(&format!("{dotted}.{path}.alpha")), (network, path));
        }
    }
}
