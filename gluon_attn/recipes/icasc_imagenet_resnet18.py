"""ICASC on ILSVRC2012, ResNet-18, 90 epochs (supplement, Table 1).

Command    gluon-attn train --recipe icasc_imagenet_resnet18 --data-dir IMAGENET --save-dir RUN
Baseline   the same with method=baseline
Hardware   paper: NVIDIA Titan X; here: not run (the data are not available)
Hours      not run
Paper      gain of 0.92 points of top-1 accuracy over the baseline (abstract); the absolute values
           are not at hand
Ours       not run
Deviates   Assumptions: augmentation is the usual one of random area and shape with mirroring,
           testing takes the centre of the image with its shorter side at 256 (only the input size
           is stated); no colour changes. ResNet in its v1b structure (the stride on the 3x3
           convolution, as in torchvision). The last epoch is kept, as nothing may be chosen on the
           validation images that are reported.
"""

base = "_imagenet"
method = "icasc"
model = "resnet18_v1b"
epochs = 90
lr_epochs = (30, 60)
