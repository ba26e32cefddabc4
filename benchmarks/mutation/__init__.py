"""Which wrong backwards does `lossproof.check` find, and does it say why they are wrong?"""
