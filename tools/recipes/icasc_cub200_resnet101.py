"""ICASC on CUB-200-2011, ResNet-101, 448 pixels, 90 epochs (supplement, Table 1).

Command    python tools/train.py --recipe icasc_cub200_resnet101 --data-dir CUB --save-dir RUN
               --base-params resnet101_v1b.params
Baseline   the same with method=baseline
Hardware   paper: NVIDIA Titan X; here: not run (the data are not available)
Hours      not run
Paper      gain of 4.0 points of top-1 accuracy over the baseline (abstract); the absolute values
           are not at hand
Ours       not run
Deviates   Assumptions: starts from ImageNet weights, as the pipeline that the supplement follows
           does; training crops are 448 out of 512 pixels, testing resizes the whole image to 448
           ("resized to 448x448 for both training and testing", "random cropping"). ResNet in its
           v1b structure (the stride on the 3x3 convolution, as in torchvision). The last epoch is
           kept, so nothing is chosen on the test images that are watched.
"""

method = "icasc"
model = "resnet101_v1b"
dataset = "auto"
splits = ("trainval", "test", "test")
keep = "last"
score = "top1"
input_size = 448
resize = 512
crop_min = 448
crop_max = 448
mirror = True
eval_crop = 512
epochs = 90
batch_size = 10
optimizer = "sgd"
lr = 1e-3
momentum = 0.9
wd = 1e-4
schedule = "step"
lr_factor = 0.1
lr_epochs = (30, 60)
lr_min = 0.0
log_interval = 100
