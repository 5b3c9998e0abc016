"""VAA on PETA, ResNet-101, as in the supplement.

Command    gluon-attn train --recipe vaa_peta_resnet101 --data-dir PETA --save-dir RUN
               --base-params resnet101_v1-d988c13d.params
Hardware   paper: one GTX 1080 Ti; here: not run (no images, no ImageNet weights of ResNets)
Hours      not measured
Paper      84.59 mA, 78.56 accuracy, 86.79 precision, 86.12 recall, 86.46 F1 (as quoted by later
           papers)
Ours       not run
Deviates   focal loss from the start, where the author advises cost-sensitive cross-entropy
           first; ImageNet mean and std; phase1_epochs, epochs, gamma and the plateau's score (mA)
           are assumptions (docs/vaa.md)
"""

base = "vaa_wider_resnet101"
model = "vaa_resnet101"
crop_min = 160
epochs = 60
score = "mA"
optimizer = "adam"
lr = 1e-4
lr_patience = 8
lr_min = 1e-6
