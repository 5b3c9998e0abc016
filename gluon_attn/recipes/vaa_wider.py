"""VAA on WIDER-Attribute, ResNet-101.

Command    gluon-attn train --recipe NAME --data-dir WIDER --save-dir RUN
               --base-params resnet101_v1-d988c13d.params
Hardware   paper: one GTX 1080 Ti; here: not run (no images, no ImageNet weights of ResNets)
Hours      not measured
"""

epochs = 250
batch_size = 32
lr = 1e-3
wd = 5e-4
schedule = "plateau"


class vaa_wider_resnet101:
    """VAA on WIDER-Attribute, ResNet-101, as in the supplement.

    Paper      86.4 mAP on the test split (as quoted by later papers); its ResNet-101 alone 83.7
    Ours       not run
    Deviates   ImageNet mean and std, which Gluon's weights were trained with, instead of the
               repository's 104/117/123 without std; evaluation on the whole person, of whom the
               repository keeps the centre (eval_crop=224) and the supplement says nothing;
               phase1_epochs, epochs and gamma are assumptions (docs/vaa.md)
    """

    method = "vaa"
    model = "vaa_resnet101_wider"
    input_size = 224
    resize = 256
    crop_min = 128
    crop_max = 224
    eval_crop = 0
    lr_patience = 10
    lr_min = 1e-5
    options = {
        "phase1_epochs": 5,
        "gamma": 2.0,
        "weighting": "prior",
        "history_length": 5,
        "history_start": 2,
        "history_weights": 5,
    }


class vaa_wider_resnet101_released:
    """VAA on WIDER-Attribute with the nets and settings of the authors' repository.

    The repository is not the paper's model (its author says so): three taps, wider heads, batch 24,
    learning rate 1e-4, input minus 104/117/123 without scaling. Its losses are set here as they
    were meant; in the repository itself they fall back to plain cross-entropy.

    Paper      no number belongs to this variant
    Ours       not run
    Deviates   see docs/vaa.md
    """

    method = "vaa"
    model = "vaa_resnet101_released_wider"
    mean = (104.0, 117.0, 123.0)
    std = (1.0, 1.0, 1.0)
    batch_size = 24
    lr = 1e-4
    options = {"phase1_epochs": 5, "gamma": 2.0, "weighting": "released"}


class baseline_wider_resnet101:
    """Plain ResNet-101 with cross-entropy on WIDER-Attribute: the baseline of the VAA paper.

    Paper      83.7 mAP on the test split (as quoted by later papers)
    Ours       not run
    Deviates   as vaa_wider_resnet101
    """

    method = "baseline"
    model = "resnet101_wider"
    eval_crop = 0
