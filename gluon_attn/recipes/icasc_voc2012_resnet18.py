"""ICASC on PASCAL VOC 2012, ResNet-18, multi-label, 20 epochs (supplement, Tables 1 and 2).

Command    gluon-attn train --recipe icasc_voc2012_resnet18 --data-dir VOC --save-dir RUN
               --base-params resnet18_v1b.params
Baseline   the same with method=baseline
Hardware   paper: NVIDIA Titan X; here: not run (the data are not available)
Hours      not run
Paper      83.17 mAP; with Grad-CAM 82.12, the baseline 77.44
Ours       not run
Deviates   Assumptions: starts from ImageNet weights; random crops of 299 out of 342 pixels and
           mirroring (augmentation is not stated); the crop of the centre in testing; difficult
           objects count neither in training nor in testing. 5,717 training and 5,823 test images as
           in Table 1 (its 15,000 in all is not the sum). ResNet in its v1b structure (the stride on
           the 3x3 convolution, as in torchvision). The last epoch is kept, so nothing is chosen on
           the images that are reported.
"""

base = "icasc_caltech256_resnet18"
data_options = {}
unspecified = "masked"
splits = ("train", "val", "val")
score = "mAP"
