# The CMake package: find_package(cln) from an installed tree.
install(TARGETS ${CLN_INSTALLED} EXPORT clnTargets
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
        RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(DIRECTORY include/cln DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
set(CLN_PACKAGE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/cln)
install(EXPORT clnTargets NAMESPACE cln:: DESTINATION ${CLN_PACKAGE_DIR})
configure_package_config_file(cmake/clnConfig.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/clnConfig.cmake
                              INSTALL_DESTINATION ${CLN_PACKAGE_DIR})
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/clnConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/clnConfig.cmake ${CMAKE_CURRENT_BINARY_DIR}/clnConfigVersion.cmake
        DESTINATION ${CLN_PACKAGE_DIR})
