"""ICASC on CUB-200-2011, 448 pixels, 90 epochs (supplement, Table 1).

Command    gluon-attn train --recipe NAME --data-dir CUB --save-dir RUN
               --base-params resnet50_v1b.params (or resnet101_v1b.params)
Baseline   the same with method=baseline
Hardware   paper: NVIDIA Titan X; here: not run (the data are not available)
Hours      not run
Ours       not run
Deviates   Assumptions: starts from ImageNet weights, as the pipeline that the supplement follows
           does; training crops are 448 out of 512 pixels, testing resizes the whole image to 448
           ("resized to 448x448 for both training and testing", "random cropping"). ResNet in its
           v1b structure (the stride on the 3x3 convolution, as in torchvision). The last epoch is
           kept, so nothing is chosen on the test images that are watched.
"""

method = "icasc"
splits = ("trainval", "test", "test")
keep = "last"
score = "top1"
input_size = 448
resize = 512
crop_min = 448
crop_max = 448
eval_crop = 512
epochs = 90
batch_size = 10
optimizer = "sgd"
lr = 1e-3
wd = 1e-4
schedule = "step"
lr_epochs = (30, 60)
lr_min = 0.0
log_interval = 100


class icasc_cub200_resnet50:
    """ICASC on CUB-200-2011, ResNet-50, 448 pixels, 90 epochs.

    Paper      gain of 4.8 points of top-1 accuracy over the baseline (abstract); the absolute
               values are not at hand
    """

    model = "resnet50_v1b"


class icasc_cub200_resnet101:
    """ICASC on CUB-200-2011, ResNet-101, 448 pixels, 90 epochs.

    Paper      gain of 4.0 points of top-1 accuracy over the baseline (abstract); the absolute
               values are not at hand
    """

    model = "resnet101_v1b"
