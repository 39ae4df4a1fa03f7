# The core library: every kernel family's CPU sources, each ISA variant under its own flags, and,
# with nvcc, its CUDA sources. Installed as the CMake package rankone with the target rankone::core.

set(RANKONE_WARNINGS -Wall -Wextra -Wpedantic)

# Sources whose name ends in an instruction set hold one variant of the kernels; the entry point of
# the family picks one at run time. Their FMAs are written out, so the compiler adds none: results
# then do not depend on how a loop was unrolled.
function(rankone_set_isa_flags)
  foreach(source IN LISTS ARGN)
    set(flags "")
    if(source MATCHES "_generic\\.cpp$")
      set(flags -ffp-contract=off)
    elseif(source MATCHES "_avx2\\.cpp$")
      set(flags -ffp-contract=off -mavx2 -mfma -mf16c)
    elseif(source MATCHES "_avx512\\.cpp$")
      set(flags -ffp-contract=off -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mf16c)
    endif()
    set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "${flags}")
  endforeach()
endfunction()

function(rankone_cpu_sources result)
  file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/cpp/*.cpp)
  if(NOT CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
    list(FILTER sources EXCLUDE REGEX "_avx(2|512)\\.cpp$")
  endif()
  set(${result} ${sources} PARENT_SCOPE)
endfunction()

# RANKONE_CUDA_<FAMILY> for every family with CUDA kernels, for the bindings.
function(rankone_define_cuda_families target)
  foreach(family IN LISTS RANKONE_CUDA_FAMILIES)
    string(TOUPPER ${family} name)
    target_compile_definitions(${target} PRIVATE RANKONE_CUDA_${name}=1)
  endforeach()
endfunction()

function(rankone_cuda_sources result)
  set(sources "")
  foreach(family IN LISTS RANKONE_CUDA_FAMILIES)
    file(GLOB found CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/cuda/${family}*.cu)
    list(APPEND sources ${found})
  endforeach()
  set(${result} ${sources} PARENT_SCOPE)
endfunction()

function(rankone_add_core)
  rankone_cpu_sources(cpu_sources)
  rankone_set_isa_flags(${cpu_sources})
  add_library(rankone_core STATIC ${cpu_sources})
  add_library(rankone::core ALIAS rankone_core)
  set_target_properties(rankone_core PROPERTIES EXPORT_NAME core OUTPUT_NAME rankone_core)
  target_compile_features(rankone_core PUBLIC cxx_std_20)
  target_include_directories(rankone_core
    PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/cpp/include>
           $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>
    PRIVATE ${PROJECT_SOURCE_DIR}/cpp)
  target_compile_options(rankone_core PRIVATE $<$<COMPILE_LANGUAGE:CXX>:${RANKONE_WARNINGS}>)
  target_link_libraries(rankone_core PUBLIC Threads::Threads)

  if(RANKONE_WITH_CUDA)
    rankone_cuda_sources(cuda_sources)
    target_sources(rankone_core PRIVATE ${cuda_sources})
    set_target_properties(rankone_core PROPERTIES
      CUDA_ARCHITECTURES "${RANKONE_CUDA_TARGETS}" CUDA_RUNTIME_LIBRARY Static
      CUDA_VISIBILITY_PRESET hidden)
    target_include_directories(rankone_core PRIVATE ${PROJECT_SOURCE_DIR}/cuda)
    target_compile_options(rankone_core PRIVATE
      $<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr -Xcompiler=-Wall,-Wextra>)
    target_compile_definitions(rankone_core PUBLIC RANKONE_WITH_CUDA=1)
    target_link_libraries(rankone_core PUBLIC CUDA::cudart_static)
  endif()

  include(CMakePackageConfigHelpers)
  set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/rankone)
  configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/rankoneConfig.cmake.in
    ${PROJECT_BINARY_DIR}/rankoneConfig.cmake INSTALL_DESTINATION ${package_dir})
  write_basic_package_version_file(${PROJECT_BINARY_DIR}/rankoneConfigVersion.cmake
    COMPATIBILITY SameMinorVersion)
  install(TARGETS rankone_core EXPORT rankoneTargets COMPONENT core
    ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/cpp/include/ COMPONENT core
    DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
  install(EXPORT rankoneTargets NAMESPACE rankone:: DESTINATION ${package_dir} COMPONENT core)
  install(FILES ${PROJECT_BINARY_DIR}/rankoneConfig.cmake
    ${PROJECT_BINARY_DIR}/rankoneConfigVersion.cmake DESTINATION ${package_dir} COMPONENT core)
endfunction()
