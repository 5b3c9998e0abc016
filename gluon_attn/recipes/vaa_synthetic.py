"""A small VAA and its plain backbone on synthetic pedestrians, from scratch on a CPU.

Command    gluon-attn prepare synthetic --out SYNTHETIC
           gluon-attn train --recipe NAME --data-dir SYNTHETIC --save-dir RUN
Hardware   2 CPU cores
Hours      see docs/results_synthetic.md
Paper      none: neither this net nor this data is the paper's
Ours       docs/results_synthetic.md
"""

base = "_small"
epochs = 80


class vaa_synthetic_resnet18:
    """A small VAA on the synthetic pedestrians, from scratch on a CPU; the demo's recipe.

    Deviates   no pre-trained backbone, so phase primary makes one first; Adam, cosine schedule;
               half the paper's pixel sizes, so the taps are one stage earlier; chosen on validation
               data
    """

    method = "vaa"
    model = "vaa_resnet18_w16_synthetic"
    # Maps of 14 x 14 and 7 x 7, as the paper's taps have at 224 pixels.
    model_options = {"taps": ["stage2_activation1", "stage3_activation1"]}
    options = {"phase0_epochs": 32, "phase1_epochs": 3}


class baseline_synthetic_resnet18:
    """The plain backbone under the budget of vaa_synthetic_resnet18: the baseline of the demo.

    Deviates   no pre-trained backbone; Adam, cosine schedule; half the paper's pixel sizes
    """

    method = "baseline"
    model = "resnet18_w16_synthetic"
