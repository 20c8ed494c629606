"""Intensity normalisation of images that are stripped or come with a brain mask.

``windows.apply_window``
    CT and perfusion windows, with histogram equalisation.
``methods.normalize``
    z-score, WhiteStripe, FCM, KDE, Nyul, percentiles, white matter at 110.
``landmarks.fit_landmarks``
    The standard scale of a cohort for Nyul's method.
``cases``
    Folders of several channels, for nnU-Net.

All of them take arrays or Volumes with a mask and give back the same, float32.
"""
