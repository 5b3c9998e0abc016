"""Small SE nets with DREAL on synthetic data, on a CPU.

Baseline   the same with method=baseline
Hardware   2 CPU cores
Ours       see docs/results_synthetic.md
"""

base = "_small"
method = "dreal"


class dreal_synthetic_resnet18:
    """A small SE net with DREAL on synthetic people with many attributes, on a CPU.

    Command    gluon-attn prepare synthetic --out PEOPLE
               gluon-attn train --recipe dreal_synthetic_resnet18 --data-dir PEOPLE --save-dir RUN
    Ablation   stages=conv2_x, stages=conv3_x, stages=conv4_x or stages=conv5_x behind the command
    Hours      see docs/results_synthetic.md
    Paper      none: neither this net nor this data is the paper's, which has one class per image
    Deviates   the reward for several labels is our extension (docs/dreal.md); a ResNet-18 of a
               quarter of the width at 112 pixels; Adam, cosine schedule; chosen on validation data
    """

    model = "resnet18_w16_synthetic"
    model_options = {"attention": "se"}
    epochs = 20


class dreal_digits_single_resnet14:
    """A small SE net with DREAL on scenes of one handwritten digit each, on a CPU.

    Command    gluon-attn prepare digits_single --out DIGITS --side 36
                   --train 2000 --val 400 --test 1000
               gluon-attn train --recipe dreal_digits_single_resnet14 --data-dir DIGITS
                   --save-dir RUN
    Ablation   stages=conv2_x, stages=conv3_x or stages=conv4_x behind the command
    Hours      0.1
    Paper      none: neither this net nor this data is the paper's
    Deviates   a CIFAR SE-ResNet-14 of half the width; Adam, cosine schedule; chosen on validation
               data; digits are not mirrored
    """

    model = "se_resnet20_cifar10"
    model_options = {"depth": 14, "width": 8}
    unspecified = "negative"
    mirror = False
    input_size = 32
    resize = 36
    crop_min = 32
    crop_max = 36
    eval_crop = 34
    epochs = 12
    score = "top1"
