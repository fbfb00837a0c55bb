"""One small architecture of every module of ``timm.models``.

It is the module's smallest architecture where its training step is fast enough, otherwise a reduced
version with fewer or narrower layers. Image sizes are the smallest that an architecture can be
trained with.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Family(NamedTuple):
    """An architecture of timm.

    Attributes:
        model: Its name in timm.
        size: Side of the images in pixels.
        options: Options of ``timm.create_model`` that make it small.
    """

    model: str
    size: int = 64
    options: dict[str, Any] = {}  # noqa: RUF012 - never written to


VIT = {"depth": 3, "embed_dim": 48, "num_heads": 3}
SWIN = {"depths": (1, 1, 2, 1), "embed_dim": 16, "num_heads": (1, 2, 4, 8)}

FAMILIES = {
    "beit": Family("beit_base_patch16_224", 32, VIT),
    "byoanet": Family("eca_botnext26ts_256"),
    "byobnet": Family("test_byobnet"),
    "cait": Family("cait_xxs24_224", 32, VIT),
    "coat": Family("coat_lite_tiny"),
    "convit": Family("convit_tiny", 32, {**VIT, "local_up_to_layer": 2}),
    "convmixer": Family("convmixer_768_32", 14),
    "convnext": Family("test_convnext"),
    "cpubone": Family("cpubone_nano"),
    "crossvit": Family("crossvit_tiny_240", 120),
    "csatv2": Family("csatv2"),
    "cspnet": Family("cs3darknet_focus_s"),
    "cspnext": Family("cspnext_tiny"),
    "davit": Family(
        "davit_tiny",
        64,
        dict(depths=(1, 1, 2, 1), embed_dims=(16, 32, 64, 128), num_heads=(1, 2, 4, 8)),
    ),
    "deepseek_vit": Family("deepseek_vit_412m", 56, VIT),
    "deit": Family("deit_tiny_patch16_224", 32, VIT),
    "densenet": Family("densenet121", 64, dict(growth_rate=8, block_config=(2, 2, 2, 2))),
    "dla": Family("dla46x_c"),
    "dpn": Family("dpn48b"),
    "edgenext": Family("edgenext_xx_small"),
    "efficientformer": Family(
        "efficientformer_l1", 224, dict(depths=(1, 1, 1, 2), embed_dims=(8, 16, 24, 32))
    ),
    "efficientformer_v2": Family("efficientformerv2_s0"),
    "efficientnet": Family("test_efficientnet"),
    "efficientvim": Family("efficientvim_m1", 128),
    "efficientvit_mit": Family("efficientvit_b0"),
    "efficientvit_msra": Family("efficientvit_m0", 128),
    "eva": Family("eva02_tiny_patch14_224", 28, VIT),
    "fasternet": Family("fasternet_t0"),
    "fastvit": Family("fastvit_t8"),
    "focalnet": Family("focalnet_tiny_srf", 32),
    "gcvit": Family("gcvit_xxtiny"),
    "gemma4_vit": Family("gemma4_vit_167m", 48, VIT),
    "ghostnet": Family("ghostnet_050"),
    "hardcorenas": Family("hardcorenas_a"),
    "hgnet": Family("hgnetv2_b0"),
    "hiera": Family("hiera_tiny_224", 64, dict(embed_dim=24, stages=(1, 1, 2, 1))),
    "hieradet_sam2": Family(
        "hieradet_small", 64, dict(embed_dim=24, stages=(1, 1, 2, 1), global_att_blocks=(3,))
    ),
    "hrnet": Family("hrnet_w18_small"),
    "iformer": Family("iformer_t"),
    "inception_next": Family("inception_next_atto"),
    "inception_resnet_v2": Family("inception_resnet_v2", 75),
    "inception_v3": Family("inception_v3", 75),
    "inception_v4": Family("inception_v4", 75),
    "lcnetv2": Family("lcnetv2_small"),
    "levit": Family("levit_128s", 128),
    "lowformer": Family("lowformer_b0"),
    "mambaout": Family("test_mambaout"),
    "maxxvit": Family("test_coatnet"),
    "metaformer": Family("poolformer_s12"),
    "mlp_mixer": Family("gmixer_12_224", 32),
    "mobilenetv3": Family("mobilenetv3_small_050"),
    "mobilenetv5": Family("mobilenetv5_base", 64, dict(channel_multiplier=0.25)),
    "mobilevit": Family("mobilevit_xxs"),
    "mvitv2": Family("mvitv2_tiny"),
    "naflexvit": Family("naflexvit_base_patch16_gap", 32, VIT),
    "nasnet": Family("nasnetalarge", 64, dict(num_features=24 * 24, stem_size=16)),
    "nest": Family("nest_tiny"),
    "nextvit": Family("nextvit_small", 64, dict(depths=(1, 2, 5, 2))),
    "nfnet": Family("test_nfnet"),
    "pit": Family("pit_ti_224"),
    "pnasnet": Family("pnasnet5large"),
    "pvt_v2": Family("pvt_v2_b0"),
    "qwen3_vit": Family("qwen3_vit_88m", 64, VIT),
    "rdnet": Family("rdnet_tiny", 64, dict(num_blocks_list=(1,) * 7)),
    "regnet": Family("regnetx_002"),
    "repghost": Family("repghostnet_050"),
    "repvit": Family("repvit_m1"),
    "res2net": Family("res2next50", 64, dict(layers=(1, 1, 1, 1))),
    "resnest": Family("resnest14d"),
    "resnet": Family("test_resnet"),
    "resnetv2": Family("resnetv2_18"),
    "rexnet": Family("rexnet_100"),
    "selecsls": Family("selecsls42"),
    "senet": Family("legacy_seresnet18"),
    "sequencer": Family(
        "sequencer2d_s",
        32,
        dict(layers=(1,) * 4, embed_dims=(24, 48, 48, 48), hidden_sizes=(12, 24, 24, 24)),
    ),
    "shvit": Family("shvit_s1"),
    "sknet": Family("skresnet18"),
    "starnet": Family("starnet_s050"),
    "swiftformer": Family("swiftformer_xs"),
    "swin_transformer": Family("swin_tiny_patch4_window7_224", 64, SWIN),
    "swin_transformer_v2": Family("swinv2_tiny_window8_256", 64, SWIN),
    "swin_transformer_v2_cr": Family("swinv2_cr_tiny_224", 64, SWIN),
    "tiny_vit": Family("tiny_vit_5m_224", 64, dict(depths=(1, 1, 2, 1))),
    "tnt": Family("tnt_s_patch16_224", 32, dict(depth=3)),
    "tresnet": Family("tresnet_m", 64, dict(layers=(1, 1, 2, 1), width_factor=0.5)),
    "twins": Family(
        "twins_svt_small",
        64,
        dict(depths=(1, 1, 2, 1), embed_dims=(16, 32, 64, 128), num_heads=(1, 2, 4, 8)),
    ),
    "vgg": Family("vgg11", 32, dict(mlp_ratio=0.01)),
    "visformer": Family("visformer_tiny"),
    "vision_transformer": Family("test_vit"),
    "vision_transformer_hybrid": Family("vit_tiny_r_s16_p8_224", 32, dict(depth=3)),
    "vision_transformer_relpos": Family("test_vit_relpos"),
    "vision_transformer_sam": Family(
        "samvit_base_patch16_224", 64, {**VIT, "neck_chans": 32, "global_attn_indexes": (1,)}
    ),
    "vitamin": Family("vitamin_small_224", 64, dict(depth=3)),
    "volo": Family("volo_d1_224"),
    "vovnet": Family("ese_vovnet19b_slim_dw"),
    "xception": Family("legacy_xception"),
    "xception_aligned": Family("xception41p"),
    "xcit": Family("xcit_nano_12_p16_224", 32, dict(depth=3)),
}
"""By the name of the module in timm."""

EXCLUDED: dict[str, str] = {}
"""The modules of which no architecture is tested, and the reason. There are none now."""

UNUSED_PARAMETERS = {"efficientvim": ("weights",)}
"""Parameters without effect on the features: these weight classifiers, which are removed."""

WITHOUT_SPLIT_POINT = {
    "crossvit": "its blocks return the tokens of two branches",
    "gemma4_vit": "its patches come with their positions, which placeholders do not have",
    "tnt": "its blocks return the tokens of pixels and of patches",
}
"""The families that have no split point while a block is trainable, and the reason."""
