"""Named sets of backbones (``--backbone @small``), with the evidence that they transfer well."""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """One model of a set: the reason to include it, and its source.

    ``milliseconds`` is the latency of a forward pass of one image at the model's own size on one
    CPU core; None if it was not measured.
    """

    model: str
    reason: str
    source: str
    milliseconds: int | None = None


BATTLE = "Battle of the Backbones, Goldblum et al. 2023, arXiv:2310.19909"
BETTER = "Do Better ImageNet Models Transfer Better?, Kornblith et al. 2019, arXiv:1805.08974"
CLIP = "CLIP, Radford et al. 2021, arXiv:2103.00020"
DINO3 = "DINOv3, Siméoni et al. 2025, arXiv:2508.10104"
EFFICIENT = "EfficientNet, Tan & Le 2019, arXiv:1905.11946"
HOW = "How to train your ViT?, Steiner et al. 2021, arXiv:2106.10270"
LAION = "OpenCLIP on LAION-2B, Cherti et al. 2023, arXiv:2212.07143"
QUICK_TUNE = "the model hub of Quick-Tune, Pineda Arango et al. 2024, arXiv:2306.03828"
REGISTERS = "DINOv2, Oquab et al. 2023, arXiv:2304.07193; registers, arXiv:2309.16588"
TIMM = "timm's results/results-imagenet.csv"
WHICH = "Which Backbone to Use, Jeevan & Sethi 2025, arXiv:2406.05612"

_PIP = (
    Entry("tf_efficientnet_lite0", "no swish, no squeeze-and-excitation", EFFICIENT, 29),
    Entry("tf_efficientnet_lite1", "the same, deeper and at 240 px", EFFICIENT, 36),
    Entry("tf_efficientnet_lite2", "the same, wider and at 260 px", EFFICIENT, 46),
)
_CHEAP = (
    Entry(
        "mobilenetv3_large_100",
        "the cheapest; a baseline for the others",
        "MobileNetV3, Howard et al. 2019, arXiv:1905.02244",
        12,
    ),
    Entry(
        "convnext_atto",
        "no BatchNorm, so it is robust to small batches",
        f"ConvNeXt, Liu et al. 2022, arXiv:2201.03545; {TIMM}",
        19,
    ),
    Entry("efficientnet_b0", "long the standard choice at its size", EFFICIENT, 26),
)
_VIT_SMALL = Entry("vit_small_patch16_224", "ImageNet-21k; attention, no convolutions", HOW, 114)
_CLIP_BASE = Entry(
    "vit_base_patch16_clip_224.laion2b",
    "third of all in the Battle; trained on captions, not labels",
    f"{BATTLE}; {LAION}",
)

# Few but dissimilar models each, so that a search can find which type suits the images. A model is
# listed without its tag if the tag is timm's default.
SETS: dict[str, tuple[Entry, ...]] = {
    # Weights from pip (autotl[offline]), for machines that cannot reach the hub.
    "offline": _PIP,
    # A third of the cost of @cpu.
    "quick": (*_PIP, *_CHEAP),
    # The default on a CPU.
    "cpu": (
        *_PIP,
        *_CHEAP,
        Entry("resnet18", "plain convolutions, the best understood in fine-tuning", BETTER, 43),
        Entry("convnext_nano", "pretrained on ImageNet-12k, with more classes", TIMM, 68),
        Entry("resnet50", "the baseline of nearly every paper", BETTER, 102),
        _VIT_SMALL,
    ),
    # Up to 30 M parameters, for a small GPU or a long run on a CPU.
    "small": (
        Entry(
            "convnext_tiny",
            "first of the small ones in both comparisons; pretrained on ImageNet-12k too",
            f"{BATTLE}; {WHICH}",
        ),
        Entry("swinv2_tiny_window8_256", "second of the small ones in the Battle", BATTLE),
        Entry(
            "vit_small_patch16_224.dino",
            "third of the small ones in the Battle; trained without labels",
            f"{BATTLE}; DINO, Caron et al. 2021, arXiv:2104.14294",
        ),
        Entry("tf_efficientnetv2_s", "second on photographs; here with ImageNet-21k", WHICH),
        Entry("regnety_032", "the best on plants, good over all domains", WHICH),
        Entry(
            "resnetv2_50x1_bit.goog_in21k",
            "designed for transfer: ImageNet-21k and GroupNorm",
            "BiT, Kolesnikov et al. 2020, arXiv:1912.11370",
        ),
        _VIT_SMALL,
    ),
    # About 90 M parameters; the default on a GPU, together with @offline.
    "base": (
        Entry("convnext_base", "first of all in the Battle; pretrained on ImageNet-22k", BATTLE),
        Entry("swinv2_base_window12to16_192to256", "second of all in the Battle", BATTLE),
        _CLIP_BASE,
        Entry("vit_base_patch16_224", "ImageNet-21k with strong augmentation", HOW),
        Entry(
            "beitv2_base_patch16_224",
            "86.5 % on ImageNet, the most of plain transformers of this size at 224 px",
            f"BEiT v2, Peng et al. 2022, arXiv:2208.06366; {TIMM}",
        ),
    ),
    # 200 M to 430 M parameters: the highest scores at any cost.
    "best": (
        Entry(
            "eva02_large_patch14_448.mim_m38m_ft_in22k_in1k",
            "90.1 % on ImageNet, the first in timm's list; 448 px",
            f"EVA-02, Fang et al. 2023, arXiv:2303.11331; {TIMM}",
        ),
        Entry(
            "beitv2_large_patch16_224",
            "88.4 % on ImageNet, the most of 300 M parameters at 224 px",
            f"BEiT v2, Peng et al. 2022, arXiv:2208.06366; {TIMM}",
        ),
        Entry(
            "convnext_large_mlp",
            "88.0 % on ImageNet; convolutions pretrained on captions; 320 px",
            f"{LAION}; {TIMM}",
        ),
        Entry(
            "vit_large_patch14_reg4_dinov2",
            "frozen, above OpenCLIP on most of its benchmarks; 518 px",
            REGISTERS,
        ),
        Entry(
            "vit_large_patch14_clip_224.openai",
            "the largest of those whose linear probes led over 27 data sets",
            CLIP,
        ),
        Entry(
            "vit_so400m_patch14_siglip_224",
            "a shape optimised for compute; trained on WebLI captions",
            "SigLIP 2, Tschannen et al. 2025, arXiv:2502.14786",
        ),
    ),
    # From 1 M to 90 M parameters, each on the Pareto front of ImageNet accuracy and size in 2023.
    "pareto": tuple(
        Entry(model, reason, QUICK_TUNE)
        for model, reason in (
            ("dla46x_c", "1 M parameters"),
            ("edgenext_x_small", "2 M; convolutions, and attention over channels"),
            ("edgenext_small", "6 M; the same, larger"),
            ("xcit_tiny_12_p8_384", "7 M; attention over channels"),
            ("deit3_small_patch16_384.fb_in22k_ft_in1k", "22 M; plain attention"),
            (
                "convnext_small.fb_in22k_ft_in1k_384",
                "50 M; chosen by LogME for nearly all data sets",
            ),
            ("beit_base_patch16_384", "87 M; masked image modelling, then labels"),
            ("swinv2_base_window12to24_192to384", "88 M; shifted windows"),
        )
    ),
    # Trained without labels, for images unlike those of ImageNet. DINOv3 has Meta's own licence.
    "dino": (
        Entry(
            "vit_small_patch16_224.dino",
            "the cheapest; frozen features suit nearest neighbours",
            "DINO, Caron et al. 2021, arXiv:2104.14294",
        ),
        Entry(
            "convnext_tiny.dinov3_lvd1689m",
            "distilled from 7 B parameters into convolutions",
            DINO3,
        ),
        Entry("vit_small_patch16_dinov3", "distilled into 22 M parameters; 256 px", DINO3),
        Entry("vit_base_patch16_dinov3", "distilled into 86 M parameters", DINO3),
        Entry("vit_small_patch14_reg4_dinov2", "518 px: 7 times the patches of 224", REGISTERS),
        Entry("vit_base_patch14_reg4_dinov2", "the same, larger", REGISTERS),
    ),
    # Trained on captions: robust to the style of the images.
    "clip": (
        Entry(
            "vit_medium_patch32_clip_224",
            "the cheapest: distilled to 39 M parameters, 50 patches",
            "TinyCLIP, Wu et al. 2023, arXiv:2309.12314",
        ),
        Entry("vit_base_patch32_clip_224.openai", "a quarter of the patches of the next", CLIP),
        _CLIP_BASE,
        Entry(
            "vit_base_patch16_clip_224.datacompxl",
            "the same network on better filtered captions",
            "DataComp, Gadre et al. 2023, arXiv:2304.14108",
        ),
        Entry(
            "vit_base_patch16_siglip_224",
            "another loss; features are pooled by attention",
            "SigLIP 2, Tschannen et al. 2025, arXiv:2502.14786",
        ),
        Entry("convnext_base.clip_laion2b_augreg", "convolutions; 256 px", LAION),
    ),
}
